"""The parts of a step: when each of them ends, by the device's clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lumina.assemble.program import Program
from lumina.data.stream import StepBatches
from lumina.train.watch import Look

PHASES = ("data", "forward", "backward", "optimizer", "rest")
"""Of a step, in the order of printing. `data` is what the host waited; `rest` is what
lies between the others: copies of the batches, and the start of the step."""


class PhaseMarks(Look):
    """Stamps of the parts of one step."""

    name = "phase_marks"

    def __init__(self, program: Program, batches: StepBatches) -> None:
        super().__init__(program, batches)
        self._cuda = program.device.type == "cuda"
        self._mps = program.device.type == "mps"
        self._marks: list[tuple[str, Any]] = []

    def mark(self, moment: str) -> None:
        """Remember when a part ended."""
        self._marks.append((moment, self._now()))

    def seconds(self) -> dict[str, float]:
        """Seconds of each part, once the device has come to the end of the step."""
        found = {"forward": 0.0, "backward": 0.0, "optimizer": 0.0}
        for (_, begin), (moment, end) in zip(
            self._marks, self._marks[1:], strict=False
        ):
            found[moment] += self._between(begin, end)
        return found

    def _now(self) -> Any:
        if self._mps:  # its clock is the host's, once it has come to the end
            torch.mps.synchronize()
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, begin: Any, end: Any) -> float:
        if self._cuda:
            return float(begin.elapsed_time(end)) / 1000
        return float(end - begin)


class PhaseSpans(Look):
    """Named spans around the parts of a step in a trace."""

    name = "phase_spans"

    def __init__(self, program: Program, batches: StepBatches) -> None:
        super().__init__(program, batches)
        self._open: Any = None
        self._left = len(batches.micro_batches)

    def mark(self, moment: str) -> None:
        """End a span, and begin that of what follows."""
        follows = {"begin": "forward", "forward": "backward", "backward": "forward"}
        self._left -= moment == "backward"
        self._end()
        if moment in follows and self._left:
            self._begin(follows[moment])

    def judged(self, scale: torch.Tensor) -> None:
        """What follows the last backward is the update."""
        self._begin("optimizer")

    def _begin(self, name: str) -> None:
        self._open = torch.profiler.record_function(f"lumina: {name}")
        self._open.__enter__()

    def _end(self) -> None:
        if self._open is not None:
            self._open.__exit__(None, None, None)
            self._open = None


@dataclass(frozen=True)
class StepTime:
    """The seconds of one step by part.

    Attributes:
        whole: from the end of the step before to the end of this one.
        parts: by `PHASES`.
    """

    whole: float
    parts: dict[str, float]


def step_time(whole: float, waited: float, marked: dict[str, float]) -> StepTime:
    """The parts of a step, and what is left of it."""
    rest = max(whole - waited - sum(marked.values()), 0.0)
    return StepTime(whole, {"data": waited, **marked, "rest": rest})


@dataclass(frozen=True)
class PhaseRow:
    """One part over all steps.

    Attributes:
        median: seconds.
        slowest: seconds of the step in which it took longest.
        share: of the medians of all parts.
    """

    name: str
    median: float
    slowest: float
    share: float


def phase_rows(steps: Sequence[StepTime]) -> list[PhaseRow]:
    """The parts over the steps, in the order of `PHASES`."""
    medians = {
        name: statistics.median(step.parts[name] for step in steps) for name in PHASES
    }
    whole = sum(medians.values()) or 1.0
    return [
        PhaseRow(
            name,
            medians[name],
            max(step.parts[name] for step in steps),
            medians[name] / whole,
        )
        for name in PHASES
    ]
