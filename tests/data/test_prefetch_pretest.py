"""The pretest of reading ahead finds what threads can do wrong, and is remembered."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from forked import run_forked
from lumina.config import Config
from lumina.data import prefetch_pretest as module
from lumina.data.prefetch import Prefetcher
from lumina.errors import LuminaError
from lumina.guard.guarded import guarded
from lumina.guard.history import remember
from lumina.guard.pretest import Result, run_pretest
from machines import cpu, plan_for
from stand_ins import stand_in
from training import PATIENCE

HERE = SimpleNamespace(device="cpu")


@pytest.mark.covers("KRN-18: with pretest")
@pytest.mark.parametrize(
    "run",
    [
        pytest.param(run_forked, id="forked"),
        pytest.param(subprocess.run, id="fresh", marks=pytest.mark.thorough),
    ],
)
def test_prefetch_passes_in_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch, run: Any
) -> None:
    """As `lumina pretests run prefetch` does it."""
    monkeypatch.setattr(subprocess, "run", run)
    found = run_pretest("prefetch", device="cpu", timeout=PATIENCE)
    # Of another process that takes the processor, only the time can speak.
    assert found.passed or "times as long" in found.problem


def test_another_order_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = Prefetcher.next

    def swapped(feed: Prefetcher):
        if feed._thread is not None and not hasattr(feed, "swapped"):
            feed.swapped = True
            taken(feed)
        return taken(feed)

    monkeypatch.setattr(Prefetcher, "next", swapped)
    assert "other batches" in str(module.problem(HERE))


@pytest.mark.covers("KRN-18: failure modes (memory, thread and GIL contention)")
def test_more_steps_than_allowed_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Prefetcher.__init__

    def deep(feed: Prefetcher, *rest, depth: int, **more) -> None:
        begin(feed, *rest, depth=4 * depth, **more)

    monkeypatch.setattr(Prefetcher, "__init__", deep)
    assert "were made ahead" in str(module.problem(HERE))


@pytest.mark.covers("KRN-18: failure modes (memory, thread and GIL contention)")
def test_threads_that_make_steps_slower_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Time is counted, not taken: each step with a thread costs more of it."""
    now = {"seconds": 0.0}
    taken = Prefetcher.next

    def next_(feed: Prefetcher):
        now["seconds"] += 1.0 if feed._thread is None else 1.3
        return taken(feed)

    monkeypatch.setattr(Prefetcher, "next", next_)
    monkeypatch.setattr(
        module, "time", stand_in(time, perf_counter=lambda: now["seconds"])
    )
    found = module.problem(HERE)
    assert found is not None and "1.30 times as long" in found


@pytest.fixture
def remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path / "cache"))

    def add(problem: str, device: str) -> None:
        remember(Result("prefetch", not problem, problem, 1.0), device)

    return add


@pytest.mark.covers("KRN-18: as an optimisation")
def test_what_failed_last_is_left_out_with_the_reason(remembered) -> None:
    machine = cpu()
    config = Config(vocab_size=64, steps=3, global_batch_size=8)
    ranks = SimpleNamespace(main=True, share=lambda value: value)

    def planned(**options):
        wanted = config.replace(**options)
        return guarded(lambda there: plan_for(wanted, there), machine, ranks)[0]

    assert planned().prefetch_threads == 1
    remembered("steps take 2.00 times as long", "another machine")
    assert planned().prefetch_threads == 1
    remembered("steps take 2.00 times as long", machine.device_name)
    plan = planned()
    assert plan.prefetch_threads == 0
    assert any("2.00 times as long" in text for text in plan.warnings)
    with pytest.raises(LuminaError) as caught:
        planned(prefetch_threads=2)
    assert caught.value.code == "E003"
    remembered("", machine.device_name)
    assert planned(prefetch_threads=2).prefetch_threads == 2
