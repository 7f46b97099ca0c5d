"""Gradients that explode or vanish."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina.train.health.check import Alarm, Check, median, number, register_check

WINDOW = 50


@register_check
class ExplodingGradients(Check):
    """Gradients far larger than they were, several times in a row."""

    name = "exploding_gradients"
    penalty = 20
    prior = 0.9
    times, in_a_row = 10.0, 3
    rule = (
        "a gradient norm more than 10 times the median of the 50 steps before, in 3 "
        "steps in a row"
    )

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Compare with the window before, which such a norm does not enter."""
        norm = number(row, "grad_norm")
        if norm is None:
            return None
        before: list[float] = self.memory.get("norms", [])
        if len(before) == WINDOW and norm > self.times * median(before):
            count = self.memory["large"] = self.memory.get("large", 0) + 1
            if count < self.in_a_row:
                return None
            middle = median(before)
            if count > WINDOW:  # a new level
                self.memory.clear()
            return Alarm(
                f"the gradient norm is {norm:.3g} and has been more than "
                f"{self.times:.0f} times the usual {middle:.3g} for {count} steps",
                {"norm": norm, "median": middle},
                confidence=self.sure(norm / (self.times * middle)),
            )
        self.memory["large"] = 0
        self.keep("norms", norm, WINDOW)
        return None


@register_check
class VanishingGradients(Check):
    """Gradients that have all but gone while there is much left to learn."""

    name = "vanishing_gradients"
    penalty = 20
    share, learned = 1e-3, 0.5
    rule = (
        "the median gradient norm of 50 steps below a thousandth of that of the first "
        "50, while their median loss is above half of what it was then"
    )

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Compare with the first window of the run."""
        norm, loss = number(row, "grad_norm"), number(row, "loss")
        if norm is None or loss is None:
            return None
        norms = self.keep("norms", norm, WINDOW)
        losses = self.keep("losses", loss, WINDOW)
        if len(norms) < WINDOW:
            return None
        now, level = median(norms), median(losses)
        first = self.memory.setdefault("first", [now, level])
        if now >= self.share * first[0] or level <= self.learned * first[1]:
            return None
        return Alarm(
            f"the median gradient norm of {WINDOW} steps is {now:.3g}, and was "
            f"{first[0]:.3g} at first; the loss is {level:.4f}",
            {"norm": now, "first_norm": first[0], "loss": level},
            confidence=self.sure(self.share * first[0] / max(now, 1e-30)),
        )
