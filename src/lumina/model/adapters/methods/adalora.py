"""AdaLoRA: ranks go where they matter (Zhang et al., 2023, arXiv:2303.10512)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lumina.model.adapters.method import Asked, Leaf, Method, Tensors, Training
from lumina.model.adapters.sites import Site
from lumina.model.adapters.table import register
from lumina.model.tensors import ONES, ZEROS, normal

FIRST = 1.5
"""Ranks at first, over the ranks that are left in the end; as in the paper."""

WHOLE, SETTLED = 0.1, 0.7
"""Parts of a run: until the first all ranks stay, from the second on none changes."""

MEMORY = 0.85
"""Of the moving averages of sensitivity and of its uncertainty: beta 1 and beta 2."""

ORTHOGONAL = 0.5
"""Weight of the terms that keep rows of A, and columns of B, at right angles."""

TRAINED = ("a", "b", "e")


class AdaLora(Method):
    """W + scale * B diag(e) A, of whose triplets all adapters share a falling number.

    A triplet is a row of A, a number of e and a column of B. Its importance is that of
    its number and the mean of those of its row and its column: sensitivity |w dL/dw|
    times its uncertainty, both as moving averages. Of the unimportant ones the number
    is set to zero after each step; they may come back until ranks settle.
    """

    name = "adalora"
    words = "AdaLoRA"
    watches = True

    def first_rank(self, rank: int) -> int:
        """More than are left in the end."""
        return math.ceil(FIRST * rank)

    def leaves(
        self, site: Site, rank: int, options: Mapping[str, Any]
    ) -> tuple[Leaf, ...]:
        """A, B and e; which triplets are kept; the averages, which checkpoints hold."""
        *experts, outputs, inputs = site.shape
        *expert, output, input_ = site.axes
        shapes = {
            "a": ((*experts, rank, inputs), (*expert, "rank", input_), normal(0.02)),
            "b": ((*experts, outputs, rank), (*expert, output, "rank"), normal(0.02)),
            "e": ((*experts, rank, 1), (*expert, "rank", "one"), ZEROS),
        }
        averages = [
            Leaf(f"{name}_{what}", shape, axes, ZEROS, "buffer")
            for name, (shape, axes, _) in shapes.items()
            for what in ("sensitivity", "uncertainty")
        ]
        shape, axes, _ = shapes["e"]
        return (
            *(Leaf(name, *of) for name, of in shapes.items()),
            *averages,
            Leaf("kept", shape, axes, ONES, "buffer"),
            Leaf("steps", (1,), ("one",), ZEROS, "buffer"),
        )

    def delta(self, tensors: Tensors, scale: float, base: Tensor | None) -> Tensor:
        """scale * B diag(e) A."""
        inner = tensors["e"].float() * tensors["a"].float()
        return scale * (tensors["b"].float() @ inner)

    def change(self, asked: Asked) -> Tensor:
        """The same by narrow products."""
        rows = asked.tensors["a"] * asked.tensors["e"]
        return asked.product(
            asked.product(asked.x, rows) * asked.scale, asked.tensors["b"]
        )

    def gradients(self, training: Training, divisor: Tensor, skip: Tensor) -> None:
        """Take the step's gradients into the averages, and keep bases orthogonal."""
        bases = 2 * len(training.tensors)
        for path, tensors in training.tensors.items():
            for name in TRAINED:
                gradient = training.gradient(f"{path}.{name}")
                if gradient is None:
                    continue
                weight = training.master(f"{path}.{name}")
                felt = (weight * gradient / divisor).abs()
                _average(tensors, name, felt, skip)
                if name != "e":
                    away = ORTHOGONAL / bases * _tilt(weight, tall=name == "b")
                    gradient.add_(away.to(gradient.dtype) * divisor)
            tensors["steps"].add_((skip == 0).float())

    def after(self, training: Training) -> None:
        """Set the numbers of the unimportant triplets to zero."""
        all_tensors = list(training.tensors.values())
        scores = torch.cat([_importance(one).flatten() for one in all_tensors])
        done = all_tensors[0]["steps"][0] / max(training.steps, 1)
        budget = _budget(scores.numel(), done)
        place = (budget - 1).clamp(min=0).long()
        least = scores.sort(descending=True).values[place]
        for path, tensors in training.tensors.items():
            now = (_importance(tensors) >= least).to(tensors["kept"])
            settled = done >= SETTLED
            tensors["kept"].copy_(torch.where(settled, tensors["kept"], now))
            master = training.master(f"{path}.e")
            master.mul_(tensors["kept"])
            tensors["e"].copy_(master)


def _budget(triplets: int, done: Tensor) -> Tensor:
    """How many triplets stay after a part `done` of the run; falls with its cube."""
    goal = round(triplets / FIRST)
    left = 1 - ((done - WHOLE) / (SETTLED - WHOLE)).clamp(0, 1)
    return goal + ((triplets - goal) * left**3).round()


def _average(
    tensors: Mapping[str, Tensor], name: str, felt: Tensor, skip: Tensor
) -> None:
    """Move the averages of a tensor towards the sensitivity of this step."""
    mean, doubt = tensors[f"{name}_sensitivity"], tensors[f"{name}_uncertainty"]
    share = (1 - MEMORY) * (skip == 0).float()
    felt = torch.where(skip > 0, 0.0, felt)
    mean.lerp_(felt, share)
    doubt.lerp_((felt - mean).abs(), share)


def _importance(tensors: Mapping[str, Tensor]) -> Tensor:
    """Of each triplet, [..., rank, 1]."""
    score = {
        name: tensors[f"{name}_sensitivity"] * tensors[f"{name}_uncertainty"]
        for name in TRAINED
    }
    rows = score["a"].mean(-1, keepdim=True)
    columns = score["b"].mean(-2).unsqueeze(-1)
    found: Tensor = score["e"] + rows + columns
    return found


def _tilt(weight: Tensor, tall: bool) -> Tensor:
    """The gradient of |P P^T - I| (Frobenius) for the rows P, or the columns."""
    rows: Tensor = weight.mT if tall else weight
    off = rows @ rows.mT
    off = off - torch.eye(off.shape[-1], device=off.device)
    norm = torch.linalg.matrix_norm(off, keepdim=True).clamp(min=1e-12)
    found: Tensor = 2 * off @ rows / norm
    return found.mT if tall else found


register(AdaLora())
