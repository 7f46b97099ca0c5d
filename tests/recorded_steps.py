"""A recorder of steps with the contract of CUDA graphs, for tensors of the CPU.

Below autograd every operation is written down with the very tensors that it read and
wrote, and a launch does them again on the same tensors: numbers of the host are
constants, memory keeps its place, random numbers come from the generator as it is, and
reading a value back is refused, all as with a captured graph. What is recorded is not
carried out: whatever it changed is set back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lumina.assemble.assemble import Progress, assemble, capture
from lumina.assemble.program import Program
from lumina.plan.plan import Plan
from lumina.train.graphs.captured import CapturedStep
from programs import take_steps

READS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "bincount")
"""Operations whose result the host waits for."""


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _tensors(values: Any) -> list[Tensor]:
    # What operations take and give needs no more than this; a tree of torch's took
    # half of the time of these tests.
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, list | tuple):
        return []
    return [one for value in values for one in _tensors(value)]


class _Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.entries: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self.made: set[int] = set()
        self.before: dict[int, tuple[Tensor, Tensor]] = {}
        self.held: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        if name in READS:
            raise RuntimeError("operation not permitted when stream is capturing")
        written = [
            tensor
            for number, place in enumerate(func._schema.arguments)
            for value in [
                args[number] if number < len(args) else kwargs.get(place.name)
            ]
            if place.alias_info is not None and place.alias_info.is_write
            for tensor in _tensors(value)
        ]
        for tensor in written:
            whole = _memory(tensor)
            if whole not in self.made and whole not in self.before:
                bits = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
                self.before[whole] = (bits, bits.clone())
        out = func(*args, **kwargs)
        aliases = {_memory(one) for one in _tensors([args, kwargs])}
        fresh = [one for one in _tensors(out) if _memory(one) not in aliases]
        self.made |= {_memory(one) for one in fresh}
        self.held += _tensors([args, kwargs, out])  # so that no memory is used twice
        if fresh or written:
            self.entries.append((func, args, kwargs, out))
        return out


class Tape:
    """What was recorded."""

    def __init__(self, tape: _Tape) -> None:
        self._tape = tape

    def launch(self) -> None:
        """Do it again, into the same memory."""
        with torch.no_grad():
            for func, args, kwargs, out in self._tape.entries:
                again = func(*args, **kwargs)
                for old, new in zip(_tensors(out), _tensors(again), strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.copy_(new)

    def close(self) -> None:
        """Nothing can be launched any more."""
        self._tape.entries.clear()
        self._tape.held.clear()


class TapeRecorder:
    """Records by `Tape`; arguments as of `CudaRecorder`."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.launches = 0

    def aside(self) -> contextlib.AbstractContextManager[Any]:
        """There is one stream."""
        return contextlib.nullcontext()

    def record(self, work: Callable[[], Tensor]) -> tuple[Tape, Tensor]:
        """Record and set back."""
        tape, drawn = _Tape(), torch.get_rng_state()
        try:
            with tape:
                result = work()
        finally:
            with torch.no_grad():
                for now, then in tape.before.values():
                    now.copy_(then)
            torch.set_rng_state(drawn)
        return Tape(tape), result


WARM = 2
"""Ordinary steps before the first recording."""

Change = Callable[[Program, int], None]
"""What a test does to a program before a step."""


def recorder_of(plan: Plan) -> Any:
    """CUDA's where the plan is for it."""
    return None if plan.device == "cuda" else TapeRecorder()


def assembled(plan: Plan, captured: bool, **source: Any) -> Program:
    program = assemble(plan.replace(cuda_graphs=captured), **source)
    if captured:
        program.captured = CapturedStep(program, WARM, recorder_of(plan))
    return program


def trained(
    plan: Plan, stream: Any, *, captured: bool, steps: int = 6, change: Change = ...
) -> tuple[torch.Tensor, dict[str, torch.Tensor], int]:
    """Losses and norms of the steps, all that was learned, and the recordings."""
    program = assembled(plan, captured)
    progress, numbers = Progress(cursor=dict(stream.start)), []
    for step in range(steps):
        if change is not ...:
            change(program, step)
        found, progress = take_steps(program, stream, 1, progress)
        numbers.append(found)
    made = program.captured.recordings if captured else 0
    state = capture(program, progress, everything=True)
    learned = dict(state.tensors)
    for kind, held in state.optimizer.items():
        learned |= {f"{kind} {name}": value for name, value in held.items()}
    program.close()
    return torch.cat(numbers), learned, made


def same(
    plan: Plan, stream: Any, *, recordings: int, change: Change = ..., steps: int = 6
) -> None:
    """A captured run is the other one to the last bit."""
    usual, learned, _ = trained(
        plan, stream, captured=False, change=change, steps=steps
    )
    numbers, again, made = trained(
        plan, stream, captured=True, change=change, steps=steps
    )
    assert made == recordings
    assert torch.equal(numbers.nan_to_num(), usual.nan_to_num())
    assert learned.keys() == again.keys()
    assert all(torch.equal(learned[name], again[name]) for name in learned)


@contextlib.contextmanager
def on_the_cpu(monkeypatch: Any) -> Iterator[None]:
    """Runs on the CPU may have graphs, which are tapes."""
    import dataclasses

    from lumina.features import FEATURES
    from lumina.train.graphs import captured

    monkeypatch.setattr(captured, "CudaRecorder", TapeRecorder)
    allowed = dataclasses.replace(FEATURES["cuda_graphs"], needs=lambda machine: None)
    monkeypatch.setitem(FEATURES, "cuda_graphs", allowed)
    yield
