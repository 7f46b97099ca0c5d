"""How fast this machine trains: measured in a few steps before the plan is made."""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumina.config import Config
from lumina.observe.console import Console
from lumina.train.trainer import Trainer

TRIAL_STEPS = 8
LEFT_OUT_STEPS = 3  # warming up
LATE = 1.1  # a run that would take this many times its time is shortened
RESUME_SECONDS = 4.0  # what ending a run and going on takes


@dataclass(frozen=True)
class Pace:
    """What a step takes.

    Attributes:
        precision: what was trained in, the choice of `precision auto`.
        reason: why that.
        trial: seconds of every measured step.
    """

    precision: str
    reason: str
    trial: list[float]

    @property
    def step_seconds(self) -> float:
        """Median seconds of a step."""
        return statistics.median(self.trial)

    def describe(self) -> str:
        """One line: what was measured and chosen."""
        return (
            f"a step takes {self.step_seconds:.3f} s in {self.precision} "
            f"({self.reason})"
        )


def measure_pace(config: Config, steps: int) -> Pace:
    """Train `steps` steps, quietly and in a folder thrown away."""
    times: list[float] = []

    def note(_: Trainer, row: dict[str, Any]) -> None:
        times.append(row["step_seconds"])

    with tempfile.TemporaryDirectory() as folder:
        trial = config.replace(
            steps=steps, eval_batches=1, run_dir=str(Path(folder) / "trial")
        )
        trainer = Trainer(trial, console=Console(stream=io.StringIO()), on_step=note)
        trainer.train()
    plan = trainer.plan
    assert plan is not None
    measured = times[min(LEFT_OUT_STEPS, len(times) - 1) :]
    return Pace(plan.compute_dtype, plan.reasons["compute_dtype"], measured)


class Watch:
    """Ends a run that would not be done in its time, and says how long it may be.

    It looks once half of the time is gone: before, a machine that was busy for a moment
    would shorten a run that still has time to catch up.

    Args:
        seconds: the time of the run, from now on.

    Attributes:
        shorter: the steps that fit, once the run was ended for that; else None.
    """

    def __init__(self, seconds: float) -> None:
        self._began = time.monotonic()
        self._seconds = seconds
        self._steps = 0
        self.shorter: int | None = None

    def on_step(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """Called with every finished row of the run."""
        spent = time.monotonic() - self._began
        self._steps += 1
        assert trainer.plan is not None
        done, rest = row["step"], trainer.plan.steps - row["step"]
        if self.shorter is not None or spent < self._seconds / 2:
            return
        seconds, left = spent / self._steps, self._seconds - spent
        if rest * seconds <= LATE * left + RESUME_SECONDS:
            return
        # The step under way is finished before a run ends.
        fitting = int((left - RESUME_SECONDS) / seconds)
        self.shorter = done + 1 + max(1, min(fitting, rest - 1))
        trainer.stop()


class Budget:
    """Wall-clock time from now on.

    Args:
        seconds: for everything.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._began = time.monotonic()

    @property
    def left(self) -> float:
        """Seconds that remain, never negative."""
        return max(0.0, self.seconds - self.spent)

    @property
    def spent(self) -> float:
        """Seconds gone by."""
        return time.monotonic() - self._began

    def steps(self, share: float, step_seconds: float, least: int, most: int) -> int:
        """How many steps fit into a share of what is left, within bounds."""
        return max(least, min(most, int(self.left * share / step_seconds)))
