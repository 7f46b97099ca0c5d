"""`lumina profile memory`: what steps take of a device, by part, beside the plan."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from lumina.assemble.program import Program
from lumina.data.stream import StepBatches
from lumina.plan.plan import Plan
from lumina.threads import start
from lumina.train.profiling.allocations import Allocation, tracked
from lumina.train.profiling.session import Session
from lumina.train.watch import Look

SAMPLED = 0.002
"""Seconds between two looks at the resident memory of a process."""


@dataclass(frozen=True)
class PhaseMemory:
    """A part of a step.

    Attributes:
        name: "forward", "backward" or "optimizer".
        peak: most bytes while it ran.
        after: bytes at its end.
    """

    name: str
    peak: int
    after: int


@dataclass(frozen=True)
class Part:
    """What holds memory, as planned and as measured.

    Attributes:
        name: what it is.
        planned: bytes, by the estimate.
        measured: bytes; None where it cannot be told apart from others.
    """

    name: str
    planned: int
    measured: int | None


@dataclass
class MemoryProfile:
    """What was measured.

    Attributes:
        what: "allocated on the GPU" or "resident in the host's memory".
        parts: what holds it; the sum of the planned ones is `expected`.
        phases: of the step whose peak was highest.
        before: bytes before the first step: weights and what else is there by then.
        peak: most bytes of all steps.
        reserved: bytes that the allocator has taken from the GPU; 0 on a CPU.
        expected: what the plan expects at the peak.
        bound: what the plan allows at most.
        have: bytes of the device.
        steps: steps that were looked at.
        allocations: what was there at the peak of one more step, the largest first.
        tracked_peak: bytes of tensors at that peak, beside what was there before it.
        interrupted: whether it was ended early.
    """

    what: str
    parts: list[Part] = field(default_factory=list)
    phases: list[PhaseMemory] = field(default_factory=list)
    before: int = 0
    peak: int = 0
    reserved: int = 0
    expected: int = 0
    bound: int = 0
    have: int = 0
    steps: int = 0
    allocations: list[Allocation] = field(default_factory=list)
    tracked_peak: int = 0
    interrupted: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def profile_memory(
    session: Session,
    *,
    steps: int,
    track: bool,
    stopped: Callable[[], bool],
    tell: Callable[[str], None],
) -> MemoryProfile:
    """Train some steps and look at the memory at each part of them.

    Args:
        session: what trains.
        steps: how many; the first makes the optimizer's states and is looked at too.
        track: record every allocation of one step more, which is slow.
        stopped: asked between steps.
        tell: shows a line of progress.
    """
    plan = session.plan
    gauge: Gauge = CudaGauge() if session.on_gpu else ResidentGauge()
    found = MemoryProfile(gauge.what, before=gauge.now())
    found.expected = plan.memory["expected"]
    found.bound = plan.memory["bound"]
    found.have = session.environment.memory_bytes
    with gauge.watching():
        for _ in range(steps):
            if stopped():
                break
            batches, _ = session.data()

            def look(program: Program, batches: StepBatches) -> Look:
                return MemoryMarks(program, batches, gauge)

            (marks,) = session.step(batches, [look]).looks
            session.wait()
            assert isinstance(marks, MemoryMarks)
            found.steps += 1
            highest = max((phase.peak for phase in marks.phases), default=0)
            if highest > found.peak:
                found.peak, found.phases = highest, marks.phases
    if session.on_gpu:
        found.reserved = int(torch.cuda.memory_reserved())
    if found.steps:
        found.parts = parts_of(plan, session.program.held, found.peak, session.on_gpu)
    if track and not stopped():
        tell("the allocations of one more step are recorded")
        batches, _ = session.data()
        found.tracked_peak, found.allocations = tracked(
            lambda: session.step(batches), session.wait, on_gpu=session.on_gpu
        )
    found.interrupted = stopped()
    return found


def parts_of(plan: Plan, held: dict[str, int], peak: int, on_gpu: bool) -> list[Part]:
    """What the plan says of each part, beside what was measured.

    Args:
        plan: whose estimate is compared.
        held: bytes of the Program's tensors by kind, counted.
        peak: most bytes that were measured.
        on_gpu: the peak is that of tensors alone. On a CPU it is that of the process,
            of which tensors are a part that is not known.
    """
    memory = plan.memory

    def planned(*names: str) -> int:
        return sum(memory.get(name, 0) for name in names)

    model = planned("weights", "master_weights")
    states = planned("optimizer", "ema", "base_weights")
    rest = max(memory["expected"] - model - states, 0)
    measured = peak - held["model"] - held["optimizer"]
    name = "gradients, activations, logits and working memory at the peak"
    if not on_gpu:
        name += ", and the process"
    return [
        Part("weights and masters", model, held["model"]),
        Part("optimizer states", states, held["optimizer"]),
        Part(name, rest, max(measured, 0)),
    ]


class Gauge:
    """Says how many bytes are in use, and the most since it was last asked."""

    what = ""

    def now(self) -> int:
        """Bytes in use."""
        raise NotImplementedError

    def take_peak(self) -> int:
        """The most since this was last called."""
        raise NotImplementedError

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While this is entered, peaks are known."""
        yield


class CudaGauge(Gauge):
    """Bytes of tensors, as PyTorch's allocator counts them."""

    what = "allocated on the GPU"

    def now(self) -> int:
        """Bytes of tensors that there are."""
        return int(torch.cuda.memory_allocated())

    def take_peak(self) -> int:
        """The most since this was last called."""
        peak = int(torch.cuda.max_memory_allocated())
        torch.cuda.reset_peak_memory_stats()
        return peak


class ResidentGauge(Gauge):
    """Bytes of the process that are in the host's memory, looked at often."""

    what = "resident in the host's memory"

    def __init__(self) -> None:
        import psutil

        self._process = psutil.Process()
        self._peak = 0
        self._lock = threading.Lock()

    def now(self) -> int:
        """Resident bytes."""
        return int(self._process.memory_info().rss)

    def take_peak(self) -> int:
        """The most since this was last called."""
        now = self.now()
        with self._lock:
            peak, self._peak = max(self._peak, now), now
        return peak

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Looks in a thread of its own."""
        over = threading.Event()

        def look() -> None:
            while not over.is_set():
                now = self.now()
                with self._lock:
                    self._peak = max(self._peak, now)
                time.sleep(SAMPLED)

        thread = threading.Thread(target=look, name="lumina-memory", daemon=True)
        start(thread)
        try:
            yield
        finally:
            over.set()
            thread.join()


class MemoryMarks(Look):
    """The memory at the end of each part of a step, and the most within it."""

    name = "memory_marks"

    def __init__(self, program: Program, batches: StepBatches, gauge: Gauge) -> None:
        super().__init__(program, batches)
        self._gauge = gauge
        self._found: dict[str, PhaseMemory] = {}

    def mark(self, moment: str) -> None:
        """Note what the part that ends here took."""
        peak, after = self._gauge.take_peak(), self._gauge.now()
        if moment == "begin":
            return
        before = self._found.get(moment)
        highest = max(peak, before.peak) if before else peak
        self._found[moment] = PhaseMemory(moment, highest, after)

    @property
    def phases(self) -> list[PhaseMemory]:
        """In the order in which they first ended."""
        return list(self._found.values())
