"""Injected failures of allocations: what a GPU's allocator raises, raised by hand."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from lumina.assemble.program import Program
from lumina.data.stream import StepBatches
from tiny_runs import Around

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
                raise torch.OutOfMemoryError("CUDA out of memory. Injected.")

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
