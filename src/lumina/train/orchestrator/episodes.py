"""Anomalies over time: when one began, how far it was acted on, when it ended."""

from __future__ import annotations

from typing import Any

from lumina.train.orchestrator.ladders import DISTURBING, MUST_HELP

CALM = 4
"""Cooldowns without a finding after which an anomaly is over."""


class Episodes:
    """The anomalies that go on.

    Args:
        cooldown: steps between two changes.

    Attributes:
        held: anomaly -> the step in which it `begun` and was last `seen`, the next
            `rung` of its ladder, the step up to which nothing is decided (`wait`), the
            `rounds`, how often its ladder came to an end, and the actions `tried` in
            the present one.
    """

    def __init__(self, cooldown: int) -> None:
        self.calm = CALM * cooldown
        self.held: dict[str, dict[str, Any]] = {}

    def note(self, anomaly: str, step: int) -> bool:
        """An anomaly was found; whether it is one that begins."""
        begins = anomaly not in self.held
        new = {"rung": 0, "begun": step, "wait": 0, "rounds": 0, "tried": []}
        self.held.setdefault(anomaly, new)["seen"] = step
        return begins

    def end(self, step: int) -> int:
        """Forget the anomalies that are over, and count them."""
        over = [n for n, held in self.held.items() if step - held["seen"] > self.calm]
        for name in over:
            del self.held[name]
        return len(over)

    def waits(self, anomaly: str, step: int, looks_back: int = 0) -> bool:
        """Whether nothing is to be decided about an anomaly yet.

        Args:
            anomaly: that was found.
            step: of the finding.
            looks_back: steps that it is a verdict on. A loss that is level over steps
                in which the run was disturbed waits: it may only be recovering.
        """
        if anomaly in MUST_HELP and looks_back:
            seen = (self.held[o]["seen"] for o in DISTURBING if o in self.held)
            if any(last > step - looks_back for last in seen):
                return True
        return bool(self.held[anomaly]["wait"] > step)

    def rung(self, anomaly: str) -> int:
        """The next rung of its ladder."""
        return int(self.held[anomaly]["rung"])

    def climb(self, anomaly: str, rung: int, wait: int = 0) -> None:
        """Go up to a rung, and decide nothing before the step `wait`."""
        self.held[anomaly] |= {"rung": rung, "wait": wait}

    def rounds(self, anomaly: str) -> int:
        """How often everything on its ladder was tried, or could not be."""
        return int(self.held[anomaly].get("rounds", 0))

    def tried(self, anomaly: str, action: str) -> bool:
        """Whether an action was taken in this round."""
        return action in self.held[anomaly].get("tried", ())

    def take(self, anomaly: str, action: str) -> None:
        """Note that an action is taken."""
        held = self.held[anomaly]
        held["tried"] = [*held.get("tried", ()), action]

    def exhaust(self, anomaly: str, step: int) -> None:
        """No action is left: wait for long, then begin the ladder again."""
        self.climb(anomaly, 0, step + self.calm)
        self.held[anomaly] |= {"rounds": self.rounds(anomaly) + 1, "tried": []}

    def rolled_back(self, step: int) -> None:
        """Steps count again from `step`."""
        for held in self.held.values():
            for name in ("begun", "seen", "wait"):
                held[name] = min(held[name], step)
