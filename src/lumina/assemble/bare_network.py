"""The network of a Plan on the meta device, and which of its tensors are special."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lumina.model.build import build_network
from lumina.model.declared import declared
from lumina.model.network import Network
from lumina.ops.attention import flash3
from lumina.ops.attention.fused import prefer_cudnn
from lumina.ops.largest_scores import tiles
from lumina.plan.kernels import kernel_family
from lumina.plan.plan import Plan


def build(plan: Plan) -> Network:
    """The network, on the meta device."""
    flash3.use(plan.attention == "flash3")
    tiles.use(plan.attention_tiles)
    prefer_cudnn(plan.device == "cuda" and plan.attention != "flash3")
    network = build_network(
        plan.spec,
        attention=kernel_family(plan.attention),
        loss_chunk_bytes=plan.loss_chunk_bytes,
        device="meta",
    )
    if plan.label_smoothing:
        network.objective.label_smoothing = plan.label_smoothing
    return network


def persistent_buffers(network: Network) -> list[tuple[str, Tensor]]:
    """Buffers that belong to the State, by name."""
    tensors = declared(network.spec)
    return [
        (name, buffer)
        for name, buffer in network.named_buffers()
        if name in tensors and tensors[name].saved
    ]


def row_tables(network: nn.Module) -> dict[str, Any]:
    """Parameters that are read row by row: name -> the module, which has `touched`."""
    return {
        f"{name}.weight": module
        for name, module in network.named_modules()
        if hasattr(module, "touched")
    }
