"""`lumina profile training`: the time of steps by part and operation, a trace."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from lumina.plan.peak import peak_here
from lumina.plan.time_estimate import TimeEstimate, estimate_here
from lumina.train.profiling.phases import (
    PhaseMarks,
    PhaseRow,
    PhaseSpans,
    StepTime,
    phase_rows,
    step_time,
)
from lumina.train.profiling.session import Session

TRACE = "trace.json.gz"
"""The trace's name in the folder of a profile."""


@dataclass(frozen=True)
class Operation:
    """What one kind of operation took in the traced steps.

    Attributes:
        name: PyTorch's.
        calls: in one step.
        seconds: of one step, without the operations that it calls itself; on the
            device that runs it.
        share: of all operations.
    """

    name: str
    calls: float
    seconds: float
    share: float


@dataclass
class TrainingProfile:
    """What was measured.

    Attributes:
        steps: the timed steps.
        operations: of the traced steps, the longest first.
        traced: how many steps were traced.
        busy: share of a traced step in which the GPU ran a kernel; None on a CPU, or
            where nothing was traced.
        expected: what the plan would have said of a step.
        tokens: of a step, padding included.
        flops: operations of a step.
        peak: of the device; None where it is not known.
        memory_peak: most bytes that the device held; 0 on a CPU.
        interrupted: whether it was ended early.
    """

    steps: list[StepTime] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    traced: int = 0
    busy: float | None = None
    expected: TimeEstimate | None = None
    tokens: int = 0
    flops: float = 0.0
    peak: float | None = None
    memory_peak: int = 0
    interrupted: bool = False

    @property
    def median(self) -> float:
        """Seconds of a step."""
        return statistics.median(step.whole for step in self.steps)

    @property
    def rows(self) -> list[PhaseRow]:
        """The parts of a step."""
        return phase_rows(self.steps)

    @property
    def mfu(self) -> float | None:
        """Part of the peak that was reached; None where that is not known."""
        if not self.steps or self.peak is None:
            return None
        return self.flops / (self.median * self.peak)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        facts = asdict(self)
        if self.steps:
            facts["median"] = self.median
            facts["phases"] = [asdict(row) for row in self.rows]
            facts["tokens_per_second"] = self.tokens / self.median
        return facts | {"mfu": self.mfu}


def profile_training(
    session: Session,
    *,
    warm_up: int,
    steps: int,
    traced: int,
    folder: Path,
    stopped: Callable[[], bool],
    tell: Callable[[str], None],
) -> TrainingProfile:
    """Time some steps, then trace a few more: tracing itself takes time.

    Args:
        session: what trains.
        warm_up: steps before those that are timed.
        steps: steps that are timed.
        traced: steps after those whose operations are recorded.
        folder: where the trace is written.
        stopped: asked between steps; once true, what was measured is given.
        tell: shows a line of progress.
    """
    plan = session.plan
    peak = peak_here(plan, session.environment)
    found = TrainingProfile(
        expected=estimate_here(plan, session.environment, steps),
        tokens=plan.global_batch_size * plan.spec.seq_length,
        peak=peak,
    )
    found.flops = plan.flops_per_token * found.tokens
    for _ in range(warm_up):
        if stopped():
            break
        session.step(session.data()[0])
    tell(f"{warm_up} steps to warm up are done; {steps} are timed")
    _time_steps(session, steps, found, stopped)
    if session.on_gpu:
        found.memory_peak = int(torch.cuda.max_memory_allocated())
    if traced and not stopped():
        tell(f"{traced} steps are traced")
        _trace_steps(session, traced, found, folder / TRACE, stopped)
    found.interrupted = stopped()
    return found


def _time_steps(
    session: Session, steps: int, found: TrainingProfile, stopped: Callable[[], bool]
) -> None:
    session.wait()
    before = time.perf_counter()
    for _ in range(steps):
        if stopped():
            return
        batches, waited = session.data()
        watch = session.step(batches, [PhaseMarks])
        session.wait()
        now = time.perf_counter()
        (marks,) = watch.looks
        assert isinstance(marks, PhaseMarks)
        found.steps.append(step_time(now - before, waited, marks.seconds()))
        before = now


def _trace_steps(
    session: Session,
    steps: int,
    found: TrainingProfile,
    path: Path,
    stopped: Callable[[], bool],
) -> None:
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if session.on_gpu:
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as profiler:
        began = time.perf_counter()
        for _ in range(steps):
            if stopped():
                break
            with torch.profiler.record_function("lumina: data"):
                batches, _ = session.data()
            session.step(batches, [PhaseSpans])
            found.traced += 1
        session.wait()
        took = time.perf_counter() - began
    if not found.traced:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(path))
    found.operations = operations_of(profiler, found.traced, session.on_gpu)
    if session.on_gpu:
        busy = sum(one.seconds for one in found.operations) * found.traced
        found.busy = min(busy / took, 1.0)


def operations_of(profiler: Any, steps: int, on_gpu: bool) -> list[Operation]:
    """The operations of traced steps, the longest first."""
    own = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    times = [
        (event.key, event.count, getattr(event, own) / 1e6)
        for event in profiler.key_averages()
        if not event.key.startswith(("lumina: ", "ProfilerStep"))
    ]
    if on_gpu:  # kernels, not the operations that launch them: those count them again
        kernels = {
            event.key
            for event in profiler.key_averages()
            if event.device_type.name != "CPU"
        }
        times = [one for one in times if one[0] in kernels]
    whole = sum(seconds for *_, seconds in times) or 1.0
    found = [
        Operation(name, count / steps, seconds / steps, seconds / whole)
        for name, count, seconds in times
        if seconds > 0
    ]
    return sorted(found, key=lambda one: -one.seconds)
