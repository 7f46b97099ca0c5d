"""The step of a program as recordings: when to record, what keeps its place, and when
a recording no longer holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from lumina.assemble.program import Program
from lumina.batch import Batch
from lumina.errors import LuminaError
from lumina.train.graphs.numbers import Numbers, Told
from lumina.train.graphs.recorder import CudaRecorder, Recorded, Recorder
from lumina.train.watch import NOTHING, Watch

ALIKE = 2
"""Ordinary steps of the same shapes before they are recorded: kernels are chosen and
compiled in the first, and the second runs where the recording will."""

MOST = 8
"""Recordings that are kept; each holds what lives within a step of its shapes."""

Work = Callable[[Sequence[Batch], Numbers, Callable[[Tensor], None]], Tensor]
"""A step's device work: micro-batches on the device, the numbers of the host, and what
writes its figures into a place of the metrics. Returns the metrics."""


@dataclass
class _Kept:
    """A recording with what it reads and writes."""

    recorded: Recorded
    batches: list[Batch]
    told: Told
    metrics: Tensor
    watch: Watch = NOTHING


class CapturedStep:
    """Takes the steps of a program, from some step on as recordings.

    A recording is of given shapes of the micro-batches, given constants of the host and
    given places of the weights, the moments and whatever else a step changes: `key_of`
    has all of that, and a step with another key is taken as it is, and then recorded
    too. The learning rate, the clip, the loss scale, the seed and the numbers of the
    tokens are no constants: they are written before each launch.

    Args:
        program: what trains.
        warm_up: ordinary steps before the first recording.
        recorder: makes recordings; None: CUDA's.

    Attributes:
        recordings: made so far, those thrown away among them.
    """

    def __init__(
        self, program: Program, warm_up: int, recorder: Recorder | None = None
    ) -> None:
        self._recorder = recorder or CudaRecorder(program.device)
        self._left = warm_up
        self._kept: dict[Any, _Kept] = {}
        self._seen: dict[Any, int] = {}
        self._holds: Any = None
        self.recordings = 0

    def take(
        self,
        program: Program,
        batches: Sequence[Batch],
        numbers: Numbers,
        figures: Sequence[float],
        constants: Any,
        work: Work,
        watch: Watch,
        changing: Callable[[], None],
    ) -> Tensor:
        """One step; the result is the caller's.

        Args:
            program: what trains.
            batches: its micro-batches, on the host or the device.
            numbers: of the host.
            figures: that go into the metrics.
            constants: what the work reads of the host beside them; hashable.
            work: the step.
            watch: the looks at the step, which the work holds.
            changing: called when the step can no longer be repeated.
        """
        self._forget_what_moved(program)
        key = (shapes_of(batches), constants)
        kept = self._kept.get(key)
        if kept is None:
            seen = self._seen[key] = self._seen.get(key, 0) + 1
            self._left -= 1
            if self._left >= 0 or seen <= ALIKE or len(self._kept) >= MOST:
                with self._recorder.aside():
                    here = [batch.to(program.device) for batch in batches]
                    return work(here, numbers, _written(figures))
            kept = self._record(program, batches, numbers, work)
            kept.watch = watch
            self._kept[key] = kept
        for held, batch in zip(kept.batches, batches, strict=True):
            _overwrite(held, batch)
        kept.told.write(numbers, figures)
        program.before_changes()
        changing()
        kept.recorded.launch()
        watch.adopt(kept.watch)
        return kept.metrics.clone()

    def _record(
        self, program: Program, batches: Sequence[Batch], numbers: Numbers, work: Work
    ) -> _Kept:
        """Record a step; nothing is learned by it.

        Raises:
            LuminaError: E309 where the step does something that cannot be recorded.
        """
        held = [_held(batch, program.device) for batch in batches]
        told = Told(len(numbers.shares), FIGURES, program.device)

        def recorded() -> Tensor:
            return work(held, told.numbers(), lambda place: _copy(place, told.figures))

        program.recording = True
        try:
            graph, metrics = self._recorder.record(recorded)
        except RuntimeError as error:
            cause = _first(error)
            if isinstance(cause, torch.OutOfMemoryError | LuminaError):
                raise cause from cause.__cause__
            raise LuminaError(
                "E309",
                f"the step cannot be captured as a CUDA graph: {cause}".split("\n")[0],
                "use --no-experimental-cuda-graphs",
            ) from cause
        finally:
            program.recording = False
            program.optimizer.zero_grad()
        self.recordings += 1
        return _Kept(graph, held, told, metrics)

    def _forget_what_moved(self, program: Program) -> None:
        """Throw recordings away that read or write memory which is no longer used."""
        now = places_of(program)
        if now != self._holds:
            self._drop()
            self._holds = now

    def _drop(self) -> None:
        for kept in self._kept.values():
            kept.recorded.close()
        self._kept.clear()
        self._seen.clear()

    def close(self) -> None:
        """Release all recordings."""
        self._drop()
        self._holds = None


def _first(error: Exception) -> Exception:
    """What failed while recording: after it the end of the recording fails as well."""
    while isinstance(error.__context__, RuntimeError | LuminaError):
        error = error.__context__
    return error


FIGURES = 6
"""Numbers of the host in the metrics of a step (`lumina.train.step.SCALARS`)."""


def shapes_of(batches: Sequence[Batch]) -> tuple[Any, ...]:
    """What of micro-batches is part of a recording: everything but their values."""
    return tuple(
        (one.name, tuple(value.shape), value.dtype)
        if isinstance(value := getattr(batch, one.name), Tensor)
        else (one.name, value)
        for batch in batches
        for one in fields(batch)
    )


def places_of(program: Program) -> tuple[Any, ...]:
    """Where everything lies that a step changes or reads, and the Plan it follows."""
    live, scale = program.live, program.loss_scale
    tensors = [live.learning_rate, live.max_grad_norm, scale.value, scale.clean]
    tensors += [*program.network.parameters(), *program.network.buffers()]
    for slot in program.optimizer.slots:
        tensors += slot.state.values()
        if slot.accumulator is not None:
            tensors.append(slot.accumulator)
        if slot.keeps_master:
            tensors.append(slot.master)
    for member in program.optimizer.members.values():
        tensors += member.optimizer.scalars().values()
    for step in program.gradient_steps:
        tensors += step.scalars().values()
    if program.average is not None:
        tensors += program.average.averages
    return (program.plan, *(tensor.data_ptr() for tensor in tensors))


def _held(batch: Batch, device: torch.device) -> Batch:
    """A batch of the same shapes in memory of its own."""
    copies: dict[str, Any] = {
        one.name: value.to(device).clone()
        for one in fields(batch)
        if isinstance(value := getattr(batch, one.name), Tensor)
    }
    return replace(batch, **copies)


def _overwrite(held: Batch, batch: Batch) -> None:
    for one in fields(batch):
        value = getattr(batch, one.name)
        if isinstance(value, Tensor):
            getattr(held, one.name).copy_(value, non_blocking=True)


def _copy(place: Tensor, figures: Tensor) -> None:
    place.copy_(figures)


def _written(figures: Sequence[float]) -> Callable[[Tensor], None]:
    def write(place: Tensor) -> None:
        write_figures(place, figures)

    return write


def write_figures(place: Tensor, figures: Sequence[float]) -> None:
    """Write numbers of the host into a vector of the device.

    Assigning a number to an element would wait until the device has done all that is
    queued; a copy from pinned memory does not.
    """
    said = torch.tensor(figures, pin_memory=place.device.type == "cuda")
    place.copy_(said, non_blocking=True)
