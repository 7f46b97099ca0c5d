"""Clipping of gradient norms that stand out, by the median of the recent ones.

ZClip (Kumar et al., 2025, arXiv:2504.02507) and AdaGC (Wang et al., 2025,
arXiv:2502.11034) clip against moving averages, which one spike moves. The median and
the median absolute deviation of a window are moved by no minority of its values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lumina.optim.declared import Option
from lumina.optim.gate import Verdict
from lumina.optim.gradient_step import GradientStep, register_gradient_step
from lumina.optim.optimizer import Slot

OF_NORMAL = 1.4826
"""Standard deviation of normal values, in median absolute deviations."""


@register_gradient_step(
    "robust_clip",
    words="a gradient norm far above the median of the recent ones is clipped",
    options={
        "threshold": Option(4.0, least=0.1),
        "window": Option(64, least=4),
        "first": Option(16, least=2),
        "least_deviation": Option(0.1, least=1e-6),
        "patience": Option(50, least=1),
    },
)
class RobustClip(GradientStep):
    """Norms far above the median of a window are brought down to a limit.

    The limit is `threshold` deviations above the median of the logarithms of the last
    `window` norms. The deviation is their median absolute deviation, as of normal
    values, and at least `least_deviation`. A norm that is so far from the median, on
    either side, never enters the window, and neither does one that is not finite.
    After `patience` such norms in a row the level is a new one: the window begins
    anew. Nothing is clipped before the window holds `first` norms. What
    `--max-grad-norm` says holds too.
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
        size = int(options["window"])
        self.window = torch.zeros(size, dtype=torch.float32, device=device)
        self.seen, self.outside = torch.zeros(
            2, dtype=torch.float32, device=device
        ).unbind()
        self._places = torch.arange(size, dtype=torch.float32, device=device)

    @torch.no_grad()
    def judge(self, verdict: Verdict, loss_scale: Tensor) -> None:
        """Divide by more where the norm stands out; otherwise remember the norm."""
        held = self.seen.clamp(max=len(self.window))
        middle, deviation = self._level(held)
        reach = self.options["threshold"] * deviation
        log = verdict.norm.log()
        usable = (verdict.skip == 0) & torch.isfinite(log)
        known = held >= self.options["first"]
        stands_out = usable & known & ((log - middle).abs() > reach)
        too_large = stands_out & (log > middle)
        more = torch.where(too_large, loss_scale * (log - middle - reach).exp(), 0.0)
        verdict.divisor = torch.maximum(verdict.divisor, more)
        enters = usable & ~stands_out
        here = (self._places == self.seen.remainder(len(self.window))) & enters
        self.window.copy_(torch.where(here, log, self.window))
        outside = torch.where(enters, 0.0, self.outside + stands_out)
        anew = outside >= self.options["patience"]
        self.seen.copy_(torch.where(anew, 0.0, self.seen + enters))
        self.outside.copy_(torch.where(anew, 0.0, outside))

    def _level(self, held: Tensor) -> tuple[Tensor, Tensor]:
        """Median and deviation of the norms in the window.

        Args:
            held: [] how many places of the window are filled.
        """
        filled = self._places < held
        middle = _median(self.window, filled, held)
        away = _median((self.window - middle).abs(), filled, held) * OF_NORMAL
        return middle, away.clamp(min=self.options["least_deviation"])

    def scalars(self) -> dict[str, Tensor]:
        """The window, how many norms entered it, and how many in a row did not."""
        return {"window": self.window, "seen": self.seen, "outside": self.outside}

    def load_scalars(self, values: Mapping[str, float | list[float]]) -> None:
        """The inverse of `scalars`; a window of another length starts over."""
        window = values["window"]
        if isinstance(window, list) and len(window) == len(self.window):
            super().load_scalars(values)


def _median(values: Tensor, filled: Tensor, count: Tensor) -> Tensor:
    """[] median of the filled places, without a sync; 0 where there are none.

    Args:
        values: [n].
        filled: [n] which of them count.
        count: [] how many do.
    """
    ordered = torch.where(filled, values, torch.inf).sort().values
    last = (count - 1).clamp(min=0)
    places = torch.stack([(last / 2).floor(), (last / 2).ceil()]).long()
    middle = ordered.gather(0, places).mean()
    return torch.where(count > 0, middle, 0.0)
