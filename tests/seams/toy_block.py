"""A block of a plug-in with its own loss, count, metric, feedback and control."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import lumina
from lumina.assemble.program import Program
from lumina.errors import LuminaError
from lumina.model.context import BlockContext
from lumina.model.layers import Linear
from lumina.model.spec import ModelSpec
from lumina.plan.plan import Plan
from lumina.train.controls.control import Control, is_number
from lumina.train.controls.table import register_control

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
    gain: Tensor

    def __init__(self, spec: ModelSpec, layer_index: int) -> None:
        super().__init__()
        self.gate = Linear(spec.hidden_size, 1)
        self.up = Linear(spec.hidden_size, spec.hidden_size)
        self.register_buffer("usual_open", torch.empty(()))
        self.register_buffer("gain", torch.empty(()))

    @staticmethod
    def initial(
        name: str, shape: tuple[int, ...], spec: ModelSpec, generator: torch.Generator
    ) -> Tensor | None:
        """The buffers start half open and at one; weights as usual."""
        values = {"usual_open": 0.5, "gain": 1.0}
        return torch.full(shape, values[name]) if name in values else None

    def forward(
        self, x: Tensor, context: BlockContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """[B, S, D] to the same, and the sums that the registration declares."""
        opened = torch.sigmoid(self.gate(x).float())[..., 0]
        scale = self.gain * opened / (0.5 + self.usual_open)
        y = x + scale[..., None].to(x.dtype) * self.up(x)
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
        for block in _blocks(network):
            block.usual_open.copy_(torch.where(skip > 0, block.usual_open, mean))

    @staticmethod
    def metrics(spec: ModelSpec, counted: Mapping[str, Tensor]) -> dict[str, Any]:
        """The share of (token, layer) whose gate was in each bin."""
        bins = counted["toy.bins"]
        return {"toy.bin_share": (bins / bins.sum().clamp(min=1)).tolist()}


@register_control
class ToyGain(Control):
    """The factor on what all toy blocks add."""

    name = "toy_gain"
    allowed = "a gain is a number above 0"
    kept_in_state = True

    def makes_sense(self, value: Any) -> bool:
        """Whether it is a factor."""
        return is_number(value) and value > 0

    def check_plan(self, plan: Plan) -> None:
        """Refuse a model without a toy block."""
        if plan.spec.parts is None or "toy" not in plan.spec.parts.block:
            raise LuminaError(
                "E002", "this model has no toy block", "use --block-type toy"
            )

    def now(self, program: Program, step: int) -> float:
        """The present factor, the same in all of them."""
        return next(block.gain.item() for block in _blocks(program.network))

    def set(self, program: Program, value: Any) -> None:
        """Another factor from the next step on."""
        for block in _blocks(program.network):
            block.gain.fill_(value)


def _blocks(network: nn.Module) -> list[ToyBlock]:
    return [m for m in network.modules() if isinstance(m, ToyBlock)]
