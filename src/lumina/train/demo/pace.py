"""How fast this machine trains: measured in a few steps before the plan is made."""

from __future__ import annotations

import io
import math
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumina.config import Config
from lumina.errors import LuminaError
from lumina.observe.console import Console
from lumina.train.trainer import Trainer

TRIAL_STEPS = 8
LEFT_OUT_STEPS = 3  # warming up
WORTH = 0.9  # bf16 rounds: it must take less than this share of float32's time


@dataclass(frozen=True)
class Pace:
    """What a step takes in each precision.

    Attributes:
        trials: precision -> seconds of every measured step; absent where refused.
    """

    trials: dict[str, list[float]]

    @property
    def precision(self) -> str:
        """What to train in: bf16 where it is clearly faster, else float32.

        The quickest steps are compared: other programs can only slow a step down.
        """
        quickest = {name: min(seconds) for name, seconds in self.trials.items()}
        faster = quickest.get("bf16", math.inf) < WORTH * quickest["fp32"]
        return "bf16" if faster else "fp32"

    @property
    def seconds(self) -> dict[str, float]:
        """Median seconds of a step in each precision."""
        return {name: statistics.median(times) for name, times in self.trials.items()}

    @property
    def step_seconds(self) -> float:
        """Median seconds of a step in the chosen precision."""
        return self.seconds[self.precision]

    def describe(self) -> str:
        """One line: what was measured and chosen."""
        measured = ", ".join(f"{p} {s:.3f} s" for p, s in self.seconds.items())
        return f"a step takes {measured}: training in {self.precision}"


def measure_pace(config: Config, steps: int) -> Pace:
    """Train `steps` steps in each precision, quietly and in a folder thrown away."""
    trials = {"fp32": _trial(config, "fp32", steps)}
    try:
        trials["bf16"] = _trial(config, "bf16", steps)
    except LuminaError as error:
        if error.code != "E003":  # this device does not have the type
            raise
    return Pace(trials)


def _trial(config: Config, precision: str, steps: int) -> list[float]:
    times: list[float] = []

    def note(trainer: Trainer, row: dict[str, Any]) -> None:
        times.append(row["step_seconds"])

    with tempfile.TemporaryDirectory() as folder:
        trial = config.replace(
            precision=precision,
            steps=steps,
            eval_batches=1,
            run_dir=str(Path(folder) / "trial"),
        )
        Trainer(trial, console=Console(stream=io.StringIO()), on_step=note).train()
    return times[min(LEFT_OUT_STEPS, len(times) - 1) :]


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
