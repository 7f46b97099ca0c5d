"""How long the steps of a run were expected to take, and how long they took."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from lumina.plan.checkpointing import recomputed_share
from lumina.plan.environment import Environment
from lumina.plan.plan import Plan
from lumina.plan.speeds import remember, speed_of
from lumina.plan.time_estimate import estimate_here
from lumina.quantities import counted, duration
from lumina.train.recorder import Recorder

SETTLED = 3
"""First steps of a process, in which libraries set up and kernels compile."""

ENOUGH = 10
"""Steps after those from which the speed of a run is remembered."""


class TimeExpected:
    """The estimate before the first step, and the steps that were timed since.

    Args:
        plan: what is done.
        machine: where.
        first_step: completed steps where this process begins.
    """

    def __init__(self, plan: Plan, machine: Environment, first_step: int) -> None:
        self._machine = machine
        self._first = first_step
        self._seconds: list[float] = []
        left = max(plan.steps - first_step, 0)
        self.estimate = estimate_here(plan, machine, left)

    def in_words(self) -> str:
        """The estimate for the banner."""
        if self.estimate is None:
            name = self._machine.device_name
            return f"unknown: no peak of {name} is known, and no run was measured here"
        return self.estimate.in_words()

    def tell(self, recorder: Recorder) -> None:
        """Leave the estimate in the events, so that it can be compared later."""
        recorder.note("time_estimated", self.in_words(), self._first, **self._figures())

    def counting(
        self, on_row: Callable[[dict[str, Any]], None]
    ) -> Callable[[dict[str, Any]], None]:
        """Gives finished rows on, after the seconds of their steps were counted."""
        newest = self._first

        def take(row: dict[str, Any]) -> None:
            nonlocal newest
            # A row that an evaluation completes later comes a second time.
            if row["step"] > newest:
                newest = row["step"]
                self._seconds.append(row["step_seconds"])
            on_row(row)

        return take

    def compare(self, plan: Plan, recorder: Recorder) -> None:
        """Say how long the steps took beside the estimate, and remember their speed.

        Args:
            plan: what the steps realised.
            recorder: takes the event.
        """
        if not self._seconds:
            return
        took, steps = sum(self._seconds), len(self._seconds)
        message = f"{counted(steps, 'step')} took {duration(took)}"
        if self.estimate is not None:
            quick, likely, slow = (
                steps * one
                for one in (
                    self.estimate.quick,
                    self.estimate.likely,
                    self.estimate.slow,
                )
            )
            basis = "measured" if self.estimate.measured else "assumed"
            inside = "within" if quick <= took <= slow else "outside of"
            message += (
                f"; {duration(likely)} was expected ({basis}), {inside} "
                f"{duration(quick)} to {duration(slow)}"
            )
        recorder.event(
            "time_taken",
            "info",
            None,
            message,
            step=self._first + steps,
            seconds=took,
            steps=steps,
            **self._figures(),
        )
        settled = self._seconds[SETTLED:]
        if len(settled) >= ENOUGH:
            rate = _work(plan) / statistics.median(settled)
            remember(speed_of(plan, self._machine.device_name, rate))

    def _figures(self) -> dict[str, Any]:
        """The estimate of a step in numbers."""
        one = self.estimate
        if one is None:
            return {}
        return {
            "expected_steps": one.steps,
            "expected_step_seconds": one.likely,
            "expected_step_range": [one.quick, one.slow],
            "measured": one.measured,
        }


def _work(plan: Plan) -> float:
    """Operations of a step on one device, recomputed ones too."""
    tokens = plan.global_batch_size * plan.spec.seq_length / plan.world_size
    again = 1 + recomputed_share(plan, plan.spec.num_layers)
    return plan.flops_per_token * tokens * again
