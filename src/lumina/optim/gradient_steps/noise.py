"""Annealed gradient noise (Neelakantan et al., 2015, arXiv:1511.06807)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lumina.optim.declared import Option
from lumina.optim.gate import Verdict
from lumina.optim.gradient_step import GradientStep, register_gradient_step
from lumina.optim.optimizer import Slot
from lumina.optim.rounding import random_bits
from lumina.optim.sharded import rows_here

PART = 2**22
"""Most elements whose noise is made at a time."""


@register_gradient_step(
    "noise",
    words="normal noise that fades is added to clipped gradients",
    options={
        "variance": Option(0.01, least=0),
        "fading": Option(0.55, least=0),
    },
)
class Noise(GradientStep):
    """Noise of the variance `variance` / (1 + t) ** `fading` in step t.

    It is a function of the seed, the tensor, the element's place and the step: the same
    after a resume, and on any number of ranks.
    """

    def __init__(
        self,
        slots: list[Slot],
        roles: Mapping[str, str],
        options: Mapping[str, Any],
        *,
        device: torch.device,
        seed: int = 0,
    ) -> None:
        super().__init__(slots, roles, options, device=device, seed=seed)
        self.steps = torch.zeros((), dtype=torch.float32, device=device)

    @torch.no_grad()
    def after(self, verdict: Verdict) -> None:
        """Add the noise, as large as what the gradients will be divided by makes it."""
        variance = self.options["variance"] / (1.0 + self.steps).pow(
            self.options["fading"]
        )
        size = variance.sqrt() * verdict.divisor
        for slot, gradient in self.gradients():
            whole = slot.parameter
            first = rows_here(whole).start * (whole.numel() // max(1, whole.shape[0]))
            rows = gradient.view(-1) if gradient.is_contiguous() else gradient
            width = rows[0].numel()
            many = max(1, PART // width)
            for start in range(0, rows.shape[0], many):
                part = rows[start : start + many]
                drawn = self._normal(slot.name, first + start * width, part.numel())
                part.add_((size * drawn).view(part.shape).to(part.dtype))
        self.steps.add_(1.0 - verdict.skip)

    def _normal(self, name: str, first: int, count: int) -> Tensor:
        """[count] float32, normal around 0 (Box and Muller, 1958)."""
        radius, angle = (
            random_bits(f"{name} {self.seed} {kind}", self.steps, first, count)
            for kind in ("radius", "angle")
        )
        lengths = ((radius.double() + 1.0) / 2**32).log_().mul_(-2.0).sqrt_()
        turns = (angle.double() * (2 * math.pi / 2**32)).cos_()
        return (lengths * turns).float()

    def scalars(self) -> dict[str, Tensor]:
        """The number of steps that were taken."""
        return {"steps": self.steps}
