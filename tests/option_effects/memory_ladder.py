"""What a run does when its memory runs out, shown with injected failures."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from lumina.errors import LuminaError
from option_effects import shows
from short_of_memory import at_most, short
from tiny_runs import Program, Runs, seen

_HALF = {"batch_size": 4, "steps": 1}


@shows("memory_recovery")
def recovery(runs: Runs) -> None:
    with pytest.raises(LuminaError, match="no room in step 1"):
        runs.train(short(at_most(2)), **_HALF, memory_recovery=False)
    assert len(runs.train(short(at_most(2)), **_HALF).rows) == 1


@shows("forget_memory_limits")
def forgotten(runs: Runs) -> None:
    runs.monkeypatch.setenv("LUMINA_CACHE", str(runs.folder / "cache"))
    found: list[int] = []

    def size(program: Program, _: Any) -> int:
        return program.plan.micro_batch_size

    runs.train(short(at_most(2)), **_HALF)
    runs.train(seen(size, found), **_HALF, forget_memory_limits=True)
    assert found == [4]


@pytest.mark.covers(
    "TRN-24: periodic cache clearing",
    "MEM-16: defragmentation",
)
@shows("clear_cache_every_n_steps")
def cleared(runs: Runs) -> None:
    calls: list[str] = []
    collect = gc.collect
    runs.monkeypatch.setattr(gc, "collect", lambda *a: calls.append("") or collect(*a))
    runs.train(steps=4)
    without = len(calls)
    runs.train(steps=4, clear_cache_every_n_steps=2)
    assert len(calls) == 2 * without + 2
