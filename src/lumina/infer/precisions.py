"""The values of `--inference-precision` as one table, and weights in one of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from lumina.assemble.logical import logical_names
from lumina.errors import LuminaError
from lumina.infer.nf4 import Nf4Weights, quantised4
from lumina.model.build import build_network
from lumina.model.declared import fused_pieces, tensor_info
from lumina.model.layers import Linear
from lumina.model.moe import MoeFeedForward
from lumina.model.spec import ModelSpec
from lumina.state.huggingface.int8 import quantised
from lumina.state.weights import Int8Weights, Weights

MATRICES = ("matrix", "expert")
"""Roles of the tensors that 8 or 4 bits hold: neither embeddings, heads nor routers."""


@dataclass(frozen=True)
class InferencePrecision:
    """What a trained model is used in.

    Attributes:
        name: the value of the option.
        dtype: of weights and activations; None: bfloat16 on a GPU that has it, else
            float32.
        bits: of the large matrices, which are widened to `dtype` as a layer runs; None:
            they are of `dtype` too.
    """

    name: str
    dtype: torch.dtype | None = None
    bits: int | None = None


INFERENCE_PRECISIONS = {
    one.name: one
    for one in (
        InferencePrecision("auto"),
        InferencePrecision("fp32", torch.float32),
        InferencePrecision("bf16", torch.bfloat16),
        InferencePrecision("fp16", torch.float16),
        InferencePrecision("int8", bits=8),
        InferencePrecision("int4", bits=4),
    )
}
"""Every value by its name."""


def find_inference_precision(
    name: str, device: torch.device
) -> tuple[torch.dtype, InferencePrecision]:
    """The type to compute in on a device, and the entry of the table.

    Raises:
        LuminaError: E005 for a name that there is not.
    """
    found = INFERENCE_PRECISIONS.get(name)
    if found is None:
        raise LuminaError(
            "E005",
            f"inference precision {name!r} does not exist",
            f"choose one of {', '.join(INFERENCE_PRECISIONS)}",
        )
    if found.dtype is not None:
        return found.dtype, found
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported(False)
    return (torch.bfloat16 if fast else torch.float32), found


def in_precision(weights: Weights, precision: InferencePrecision) -> Weights:
    """The weights with their large matrices in as many bits as the precision says.

    With 8 bits a matrix has one scale for each of its rows, the largest value of the
    row over 127, as `lumina export --quantize` stores it; with 4 bits it is NF4
    (`lumina.infer.nf4`). Weights that are stored in 8 bits stay so for 8 bits.

    Args:
        weights: of a model; read and let go of where they are rounded.
        precision: an entry of the table.
    """
    bits, source = precision.bits, weights.source
    if bits is None or (bits == 8 and isinstance(source, Int8Weights)):
        return weights
    rounded = _matrices(weights.spec)
    others = {
        name: source.tensor(name) for name in source.names() if name not in rounded
    }
    if bits == 4:
        nf4 = {name: quantised4(source.tensor(name)) for name in rounded}
        return replace(weights, source=Nf4Weights(others, nf4))
    int8 = {name: quantised(source.tensor(name), torch.float32) for name in rounded}
    return replace(weights, source=Int8Weights(others, int8))


def _matrices(spec: ModelSpec) -> set[str]:
    """Logical names of the matrices of linear layers and of experts."""
    network = build_network(spec, device="meta")
    pieces, info = fused_pieces(spec), tensor_info(spec)
    found: set[str] = set()
    for path, module in network.named_modules():
        if not isinstance(module, Linear | MoeFeedForward):
            continue
        for leaf, _ in module.named_parameters(prefix=path, recurse=False):
            found.update(logical_names(leaf, pieces))
    return {name for name in found if info[name].role in MATRICES}
