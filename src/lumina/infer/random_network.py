"""A network with random weights, made on its device: for measurements of speed."""

from __future__ import annotations

import torch

from lumina.errors import LuminaError
from lumina.infer.load import find_device
from lumina.infer.precisions import find_inference_precision
from lumina.model.build import build_network
from lumina.model.network import Network
from lumina.model.spec import ModelSpec


def random_network(spec: ModelSpec, device: str, precision: str) -> Network:
    """A network in evaluation mode, whose matrices are normal numbers.

    Args:
        spec: its shape.
        device: "auto", "cpu", "cuda" or "cuda:1".
        precision: as of `lumina.infer.load.load`, without few bits.

    Raises:
        LuminaError: E002 for a precision in few bits.
    """
    place = find_device(device)
    dtype, entry = find_inference_precision(precision, place)
    if entry.codec is not None:
        raise LuminaError(
            "E002",
            f"random weights are made in a floating type, not in {precision}",
            "name a run, or another --inference-precision",
        )
    network = build_network(spec, device="meta")
    for parameter in network.parameters():
        parameter.data = parameter.data.to(dtype)
    network.to_empty(device=place)
    network.backbone.compute_dtype = dtype
    network.reset_buffers()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, spec.init_std)
            else:
                parameter.fill_(1)
    return network.eval()
