"""A block of a plug-in with a loss, a count, a metric and feedback of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import lumina
from lumina.model.context import BlockContext
from lumina.model.layers import Linear
from lumina.model.spec import ModelSpec

BINS = 4


@lumina.register_block(
    "toy",
    options={"pressure": 0.5},
    reports={"toy.open": "pressure"},
    counts={"toy.bins": (BINS,)},
)
class ToyBlock(nn.Module):
    """A gated linear layer with a residual, whose gate is pressed towards closing.

    A buffer follows how far gates were open in the step before, and scales the gate.
    """

    usual_open: Tensor

    def __init__(self, spec: ModelSpec, layer_index: int) -> None:
        super().__init__()
        self.gate = Linear(spec.hidden_size, 1)
        self.up = Linear(spec.hidden_size, spec.hidden_size)
        self.register_buffer("usual_open", torch.empty(()))

    @staticmethod
    def initial(
        name: str, shape: tuple[int, ...], spec: ModelSpec, generator: torch.Generator
    ) -> Tensor | None:
        """The buffer starts half open; weights as usual."""
        return torch.full(shape, 0.5) if name == "usual_open" else None

    def forward(
        self, x: Tensor, context: BlockContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """[B, S, D] to the same, and the sums that the registration declares."""
        opened = torch.sigmoid(self.gate(x).float())[..., 0]
        y = x + (opened / (0.5 + self.usual_open))[..., None].to(x.dtype) * self.up(x)
        valid = context.valid
        with torch.no_grad():
            places = (opened * BINS).long().clamp(max=BINS - 1)
            each = places[..., None] == torch.arange(BINS, device=x.device)
            bins = (each & valid[..., None]).sum((0, 1)).float()
        return y, {"toy.open": (opened * valid).sum(), "toy.bins": bins}

    @staticmethod
    def after(network: nn.Module, counted: Mapping[str, Tensor], skip: Tensor) -> None:
        """The mean opening, from the middles of the bins, over all layers and ranks."""
        bins = counted["toy.bins"]
        middles = (torch.arange(BINS, device=bins.device) + 0.5) / BINS
        mean = (bins * middles).sum() / bins.sum().clamp(min=1)
        for module in network.modules():
            if isinstance(module, ToyBlock):
                module.usual_open.copy_(torch.where(skip > 0, module.usual_open, mean))

    @staticmethod
    def metrics(spec: ModelSpec, counted: Mapping[str, Tensor]) -> dict[str, Any]:
        """The share of (token, layer) whose gate was in each bin."""
        bins = counted["toy.bins"]
        return {"toy.bin_share": (bins / bins.sum().clamp(min=1)).tolist()}
