"""Adaptive expert capacity: more places while many tokens are dropped, fewer else.

A pure function of the drop rates that a run's metrics report, which are the same on
every rank. A decision takes effect two steps after the window that it is made of, when
every rank has the window's last row, however late rows arrive; so a resumed run decides
what the run that never stopped decides.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

WINDOW = 50
"""Steps whose mean drop rate is looked at."""

TOO_MANY, FEW = 0.05, 0.01
"""Drop rates above which capacity is raised, and below which it is lowered."""

RAISED, LOWERED = 1.25, 0.9
"""What the capacity factor is multiplied by."""

LEAST, MOST = 1.0, 2.8
"""Bounds of the factor: no place to spare, and the most the scale table gives. A run
that begins outside them is not moved against what its drop rate asks for."""


@dataclass
class AdaptiveCapacity:
    """What is known of the window under way, and what was decided in the last one.

    Attributes:
        total: sum of drop rates.
        count: steps in it.
        factor: the decided capacity factor, or None.
        due: completed steps at which it takes effect.
        rate: the mean drop rate behind it.
    """

    total: float = 0.0
    count: int = 0
    factor: float | None = None
    due: int = 0
    rate: float = 0.0

    def see(self, step: int, dropped: list[float], factor: float) -> None:
        """Take in a step's drop rates, one a routed layer.

        Args:
            step: its number.
            dropped: shares of assignments without a place.
            factor: the capacity factor now.
        """
        self.total += sum(dropped) / len(dropped)
        self.count += 1
        if self.count < WINDOW:
            return
        self.rate = self.total / self.count
        self.total, self.count = 0.0, 0
        changed = factor
        if self.rate > TOO_MANY:
            changed = max(factor, min(factor * RAISED, MOST))
        elif self.rate < FEW:
            changed = min(factor, max(factor * LOWERED, LEAST))
        self.factor = None if changed == factor else round(changed, 4)
        self.due = step + 1

    def decided(self, step: int) -> float | None:
        """The factor that takes effect now, once; None for none.

        Args:
            step: completed steps.
        """
        if self.factor is None or step < self.due:
            return None
        factor, self.factor = self.factor, None
        return factor

    @property
    def reason(self) -> str:
        """Why the last decision was made."""
        return f"{self.rate:.1%} of assignments were dropped in {WINDOW} steps"

    def state(self) -> dict[str, Any]:
        """For a checkpoint; `AdaptiveCapacity(**state)` is the inverse."""
        return asdict(self)
