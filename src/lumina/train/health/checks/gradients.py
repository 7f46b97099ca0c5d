"""Gradients that explode or vanish."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lumina.plan.plan import Plan
from lumina.train.health.check import Alarm, Check, median, number, register_check
from lumina.train.health.window import after_warm_up, level, window_of

LEAST_SPREAD = 0.1
"""Of the logarithm of the norm: the norms of a very even run are not taken as exact."""


@register_check
class ExplodingGradients(Check):
    """Gradients far larger than they were, or than they may be.

    Norms are compared by their logarithms, in which their scatter is even. A norm
    that is too large does not enter the window.
    """

    name = "exploding_gradients"
    penalty = 20
    prior = 0.9
    deviations, times, in_a_row = 5.0, 3.0, 3
    lone_times, lone_confidence = 30.0, 0.5
    rule = (
        "a gradient norm before clipping of more than `--gradient-norm-limit`, or one "
        "more than 5 robust standard deviations (of its logarithm) above the median of "
        "the window before and more than 3 times as large, in 3 steps in a row; with "
        "little confidence, "
        "one step of more than 30 times that median"
    )

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.window = window_of(plan)

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Compare with the limit, and with the window before."""
        norm, memory = number(row, "grad_norm"), self.memory
        if norm is None or norm <= 0:
            return None
        before: list[float] = memory.get("logs", [])
        limit, usual = self.plan.gradient_norm_limit, None
        if len(before) == self.window:
            middle, spread = level(before)
            usual = math.exp(middle)
            wide = self.deviations * max(spread, LEAST_SPREAD)
            limit = min(limit, usual * max(math.exp(wide), self.times))
        if norm <= limit:
            memory["large"] = 0
            self.keep("logs", math.log(norm), self.window)
            return None
        count = memory["large"] = memory.get("large", 0) + 1
        lone = usual is not None and norm > self.lone_times * usual
        if count > self.window // 2:  # a new level
            memory.clear()
        if count < self.in_a_row and not lone:
            return None
        compared = f", above {limit:.3g}"
        if usual is not None:
            compared += f" (usual {usual:.3g})"
        return Alarm(
            f"the gradient norm is {norm:.3g}{compared}, in {count} steps in a row",
            {"norm": norm, "limit": limit, "steps": count}
            | ({} if usual is None else {"median": usual}),
            confidence=self.lone_confidence
            if count < self.in_a_row
            else self.sure(norm / limit),
        )


@register_check
class VanishingGradients(Check):
    """Gradients that have all but gone while there is much left to learn."""

    name = "vanishing_gradients"
    penalty = 20
    share, learned = 1e-3, 0.5
    rule = (
        "the median gradient norm of a window below a thousandth of that of the first "
        "window after warm-up, while their median loss is above half of what it was"
    )

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.window = window_of(plan)

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Compare with the first window after warm-up."""
        norm, loss = number(row, "grad_norm"), number(row, "loss")
        if norm is None or loss is None or not after_warm_up(self.plan, row["step"]):
            return None
        norms = self.keep("norms", norm, self.window)
        losses = self.keep("losses", loss, self.window)
        if len(norms) < self.window:
            return None
        now, height = median(norms), median(losses)
        first = self.memory.setdefault("first", [now, height])
        if now >= self.share * first[0] or height <= self.learned * first[1]:
            return None
        return Alarm(
            f"the median gradient norm of {self.window} steps is {now:.3g}, and was "
            f"{first[0]:.3g} at first; the loss is {height:.4f}",
            {"norm": now, "first_norm": first[0], "loss": height},
            confidence=self.sure(self.share * first[0] / max(now, 1e-30)),
        )
