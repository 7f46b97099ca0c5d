"""Domain shift: the loss of a source rises, so its text is no longer what it was."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lumina.plan.plan import Plan
from lumina.train.rules.rule import Note, Now, Proposal, Rule, register_rule

WINDOW = 50
"""Steps whose mean losses are compared."""

ERRORS, SHARE = 5.0, 0.05
"""A rise is reported from this many standard errors and this share of the loss."""


@register_rule
class DomainShift(Rule):
    """Tells of a source whose loss rises from its lowest window to the present one.

    While a model learns, the loss of a source falls or stays. A mean loss over a window
    of steps that lies above that of the lowest window before, by more than the noise of
    both and by a share of the loss, says that the source has come to other text, or
    that the model has been damaged. The rule changes nothing.

    Attributes:
        windows: source -> [count, sum, sum of squares] of the present window.
        lowest: source -> [mean, variance of the mean] of the lowest window.
        found: what has not been told yet.
    """

    name = "domain_shift"
    changes = ()

    def __init__(self) -> None:
        self.windows: dict[str, list[float]] = {}
        self.lowest: dict[str, list[float]] = {}
        self.found: list[Note] = []

    @classmethod
    def wanted(cls, plan: Plan) -> str | None:
        """On in every run over sources."""
        return "tells of a source whose loss rises" if plan.sources else None

    @classmethod
    def made_for(cls, plan: Plan) -> DomainShift:
        """For the sources of the Plan."""
        rule = cls()
        rule.windows = {name: [0.0, 0.0, 0.0] for name in plan.sources}
        return rule

    def see(self, row: Mapping[str, Any]) -> None:
        """Take in the loss of every source."""
        for name, window in self.windows.items():
            loss = row[f"source.{name}.loss"]
            if loss is None or not math.isfinite(loss):
                continue
            window[0] += 1
            window[1] += loss
            window[2] += loss * loss
            if window[0] >= WINDOW:
                self._judge(name, row["step"])

    def _judge(self, name: str, step: int) -> None:
        """Compare a window that is full with the lowest one before."""
        count, total, squares = self.windows[name]
        self.windows[name] = [0.0, 0.0, 0.0]
        mean = total / count
        noise = max(squares / count - mean * mean, 0.0) / (count - 1)
        before = self.lowest.get(name)
        if before is None or mean < before[0]:
            self.lowest[name] = [mean, noise]
            return
        rise = mean - before[0]
        error = math.sqrt(before[1] + noise)
        if rise <= ERRORS * error or rise <= SHARE * before[0]:
            return
        self.lowest[name] = [mean, noise]
        text = (
            f"the loss of {name} rose from {before[0]:.4f} to {mean:.4f} (means of "
            f"{WINDOW} steps): its text has changed, or the model has"
        )
        evidence = {"before": before[0], "now": mean, "standard_error": error}
        self.found.append(Note(step, text, {"source": name, **evidence}))

    def propose(self, step: int, now: Now) -> Proposal | None:
        """Nothing."""
        return None

    def notes(self) -> list[Note]:
        """The rises that were found since the last call."""
        found, self.found = self.found, []
        return found

    def state(self) -> dict[str, Any]:
        """The windows, of every source."""
        return {"windows": self.windows, "lowest": self.lowest}

    def load(self, state: dict[str, Any]) -> None:
        """Go on in the middle of a window."""
        self.windows |= {k: list(v) for k, v in state["windows"].items()}
        self.lowest = {k: list(v) for k, v in state["lowest"].items()}
