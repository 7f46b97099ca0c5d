"""The phase that a run is in: five of them, told apart by the trend of the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lumina.plan.plan import Plan
from lumina.train.health.check import median, number
from lumina.train.health.window import NORMAL, error_of_difference

Phase = Literal["INITIALIZATION", "VOLATILE", "CONVERGING", "PLATEAU", "DIVERGING"]

BEGINNING: Phase = "INITIALIZATION"
"""Warm-up, and what follows until the course of the loss can be judged."""

RISE, ERRORS = 0.05, 4.0
"""A loss that rises by this share, and by this many standard errors, diverges."""

NOISE = 0.2
"""A loss with a larger deviation about its trend, as a share of it, is volatile."""

LEVEL = 3e-3
"""A fall by less than this share from window to window, noise added, is none."""

AGREEING = 3
"""Verdicts in a row that it takes to change the phase."""


class Phases:
    """Follows the loss from phase to phase.

    Two windows of steps that follow each other are compared by their medians. A window
    is a twentieth of the run, at least 10 and at most 200 steps; there is a verdict
    every third of a window. Divergence is looked for first, then volatility (relative
    to the loss), then whether the loss still falls. The phase changes once
    three verdicts in a row say the same; where noise hides the trend, it stays.

    Args:
        plan: of the run.

    Attributes:
        memory: what is remembered, as plain JSON values.
    """

    def __init__(self, plan: Plan) -> None:
        self.window = min(max(plan.steps // 20, 10), 200)
        self.begins = plan.phase_begin + plan.warmup_steps
        self.memory: dict[str, Any] = {}

    @property
    def now(self) -> Phase:
        """The phase."""
        found: Phase = self.memory.get("phase", BEGINNING)
        return found

    def see(self, row: Mapping[str, Any]) -> None:
        """Take in a row; a step without a finite loss counts for nothing."""
        loss = number(row, "loss")
        if loss is None or row["step"] <= self.begins:
            return
        memory = self.memory
        losses: list[float] = memory.setdefault("losses", [])
        losses.append(loss)
        del losses[: -2 * self.window]
        seen = memory["seen"] = memory.get("seen", 0) + 1
        if len(losses) < 2 * self.window or seen % max(self.window // 3, 1):
            return
        verdict = judged(losses, self.now)
        again = memory.get("verdict") == verdict
        memory["times"] = memory.get("times", 0) + 1 if again else 1
        memory["verdict"] = verdict
        if memory["times"] >= AGREEING:
            memory["phase"] = verdict


def judged(losses: Sequence[float], now: Phase) -> Phase:
    """The phase that two windows of losses speak for.

    Args:
        losses: an even number, in their order.
        now: the present phase, which stays where noise hides the trend.
    """
    half = len(losses) // 2
    before, after = losses[:half], losses[half:]
    was, level = median(before), median(after)
    deviations = [abs(x - was) for x in before] + [abs(x - level) for x in after]
    noise = NORMAL * median(deviations)
    error = error_of_difference(noise, half, half)
    fall = was - level
    if -fall > max(RISE * was, ERRORS * error):
        return "DIVERGING"
    if noise > NOISE * level:
        return "VOLATILE"
    if fall > error and fall > LEVEL * was:
        return "CONVERGING"
    if abs(fall) + error < LEVEL * was:
        return "PLATEAU"
    return now if now in ("CONVERGING", "PLATEAU") else "CONVERGING"
