"""How large the gradients are, and how far a step moves the weights, by group."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lumina.optim.optimizer import Slot, local
from lumina.train.watch import Look, register_look

if TYPE_CHECKING:
    from lumina.assemble.program import Program
    from lumina.data.stream import StepBatches

LAYER = re.compile(r"\.blocks\.(\d+)\.")


@register_look
class WeightChanges(Look):
    """Gradient norm and ratio of update to weight, by role of tensor and by layer.

    The ratio is |change of the weights| / |weights before|, both Euclidean norms over
    the group; decay of the weights is a part of the change. Gradients are those before
    clipping. A copy of the trained weights is held while the optimizer steps.
    """

    name = "weight_changes"

    def __init__(self, program: Program, batches: StepBatches) -> None:
        super().__init__(program, batches)
        self._squares: list[Tensor] = []

    def judged(self, scale: Tensor) -> None:
        """Norms of gradients and weights, and a copy of the weights."""
        self._slots = [s for s in self.program.optimizer.slots if s.touched is None]
        self._before = [_weights(slot).clone() for slot in self._slots]
        gradients = []
        for slot, weights in zip(self._slots, self._before, strict=True):
            gradient = slot.gradient()
            gradients.append(weights.new_zeros(1) if gradient is None else gradient)
        self._squares = [
            _squares(gradients) / scale.square(),
            _squares(self._before),
        ]

    def updated(self) -> None:
        """How far each weight has moved."""
        now = [_weights(slot) for slot in self._slots]
        self._squares.append(_squares(torch._foreach_sub(now, self._before)))
        self._before.clear()

    def values(self) -> Tensor | None:
        """Squares of the norms of gradient, weights and change of each parameter."""
        if len(self._squares) < 3:  # a step without labels
            return None
        found = torch.stack(self._squares)
        return self.program.parts.add(found, self._slots).flatten()

    def row(self, values: Sequence[float]) -> dict[str, Any]:
        """Keys group.ROLE.gradient_norm and so on, and lists by layer."""
        if not values:
            return {}
        count = len(self._slots)
        sums: dict[Any, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
        for at, slot in enumerate(self._slots):
            groups: list[Any] = [self.program.info_of(slot.name).role]
            if layer := LAYER.search(slot.name):
                groups.append(int(layer[1]))
            for group in groups:
                for which in range(3):
                    sums[group][which] += values[which * count + at]
        row: dict[str, Any] = {}
        layers = sorted(group for group in sums if isinstance(group, int))
        for role in sorted(group for group in sums if isinstance(group, str)):
            for key, value in _figures(sums[role]).items():
                row[f"group.{role}.{key}"] = value
        for key in ("gradient_norm", "update_ratio") if layers else ():
            row[f"layers.{key}"] = [_figures(sums[layer])[key] for layer in layers]
        return row


def _figures(squares: list[float]) -> dict[str, float | None]:
    gradient, weights, change = (square**0.5 for square in squares)
    return {
        "gradient_norm": gradient,
        "weight_norm": weights,
        "update_ratio": change / weights if weights else None,
    }


def _weights(slot: Slot) -> Tensor:
    """What training changes of a parameter, on this rank."""
    return slot.master if slot.keeps_master else local(slot.parameter.detach())


def _squares(tensors: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    """[n] float32: the square of each tensor's norm."""
    return torch.stack(torch._foreach_norm(tensors, 2.0, dtype=torch.float32)).square()
