"""Injected failures of allocations: what a GPU's allocator raises, raised by hand."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from lumina.assemble.program import Program
from lumina.data.stream import StepBatches
from tiny_runs import Around

ERROR = "CUDA out of memory. Injected."

Fits = Callable[[Program], bool]


def short(fits: Fits, at: int = 0, where: str = "forward") -> Around:
    """Injected: steps from `at` on fail in a forward or a backward unless `fits`."""
    taken = [0]

    def around(program: Program, batches: StepBatches) -> Any:
        @contextlib.contextmanager
        def inside() -> Iterator[None]:
            if taken[0] < at or fits(program):
                yield
                taken[0] += 1
                return
            block = program.network.backbone.blocks[-1]

            def fail(*_: Any) -> None:
                raise torch.OutOfMemoryError(ERROR)

            def fail_later(module: Any, arguments: Any, output: Any) -> None:
                output[0].register_hook(fail)

            hook = fail if where == "forward" else fail_later
            held = block.register_forward_hook(hook)
            try:
                yield
            finally:
                held.remove()

        return inside()

    return around


def at_most(rows: int) -> Fits:
    return lambda program: program.plan.micro_batch_size <= rows


def fail_on_ranks(
    ranks: tuple[int, ...],
    where: str,
    rows: int,
    *,
    forward: int = 1,
    step: int = 2,
) -> None:
    """In the child: injected failures on some ranks, until a forward has few rows.

    Args:
        ranks: that fail.
        where: "forward" (in the last block), "loss" or "backward" (of the last block).
        rows: of a forward that fits.
        forward: of the step in which they fail, counted from 1.
        step: from which on they fail, counted from 1.
    """
    from lumina.train import loop

    if int(os.environ["RANK"]) not in ranks:
        return
    take, calls = loop.train_step, [0]

    def fail(*_: Any) -> None:
        calls[0] += 1
        if calls[0] == forward:
            raise torch.OutOfMemoryError(ERROR)

    def later(module: Any, arguments: Any, output: Any) -> None:
        output[0].register_hook(fail)

    def taken(program: Program, batches: StepBatches, done: int, **rest: Any) -> Any:
        calls[0] = 0
        network = program.network
        if done + 1 < step or program.plan.micro_batch_size <= rows:
            return take(program, batches, done, **rest)
        if where == "loss":
            held = network.objective.register_forward_pre_hook(fail)
        else:
            hook = fail if where == "forward" else later
            held = network.backbone.blocks[-1].register_forward_hook(hook)
        try:
            return take(program, batches, done, **rest)
        finally:
            held.remove()

    loop.train_step = taken


def limit_data(mib: int) -> None:
    """In the child: a real limit. In the first two steps, so much more may be taken."""
    from lumina.train import loop

    take, limited = loop.train_step, [False]
    most = resource.getrlimit(resource.RLIMIT_DATA)[1]

    def taken(program: Program, batches: StepBatches, done: int, **rest: Any) -> Any:
        if done == 0 and not limited[0]:
            limited[0] = True
            status = Path("/proc/self/status").read_text()
            used = int(status.split("VmData:")[1].split()[0]) * 1024
            resource.setrlimit(resource.RLIMIT_DATA, (used + mib * 2**20, most))
        if done == 2:
            resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        return take(program, batches, done, **rest)

    loop.train_step = taken
