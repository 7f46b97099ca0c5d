"""Options of a run that recovers by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lumina.assemble.program import Program
from option_effects import shows
from tiny_runs import Runs


@contextmanager
def spike_at_20(program: Program, batches: Any) -> Iterator[None]:
    """The gradients of the 20th step are a thousand times too large."""
    hooks = []
    if batches.cursor["row"] == 20 * 4:
        hooks = [
            slot.parameter.register_hook(lambda grad: 1000 * grad)
            for slot in program.optimizer.slots
        ]
    yield
    for hook in hooks:
        hook.remove()


@shows("robust_clip")
def norms_that_stand_out(runs: Runs) -> None:
    """One spike is clipped to a usual norm; the steps before it are as they were."""
    off, on = (
        runs.train(
            spike_at_20,
            robust_clip=asked,
            steps=21,
            optimizer="sgd",
            max_grad_norm=0.0,
        )
        for asked in (False, True)
    )
    assert off.column("loss")[:20] == on.column("loss")[:20]
    assert off.column("loss")[20] > on.column("loss")[20] + 0.1
    assert on.column("grad_norm")[19] == pytest.approx(off.column("grad_norm")[19])
    assert [row["clipped_gradients"] for row in on.rows[18:20]] == [0, 1]
    assert "gradient steps robust_clip" in " ".join(on.printed.split())
