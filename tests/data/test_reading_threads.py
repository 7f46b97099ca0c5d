"""Threads that the system refuses: the same data comes without them, and it is told."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tiny_runs import Runs


def refusing(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """The system has room for so many threads that read."""
    start, submit, left = threading.Thread.start, ThreadPoolExecutor.submit, after

    def started(thread: threading.Thread) -> None:
        if thread.name == "lumina-data" and not after:
            raise RuntimeError("can't start new thread")
        start(thread)

    def submitted(pool, *arguments, **keys):
        nonlocal left
        if pool._thread_name_prefix == "lumina-reading":
            left -= 1
            if left < 0:
                raise RuntimeError("can't start new thread")
        return submit(pool, *arguments, **keys)

    monkeypatch.setattr(threading.Thread, "start", started)
    monkeypatch.setattr(ThreadPoolExecutor, "submit", submitted)


def lacking_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that reads ahead has no memory for its own first lines."""
    bootstrap = threading.Thread._bootstrap

    def begun(thread: threading.Thread) -> None:
        if thread.name == "lumina-data":
            raise MemoryError
        bootstrap(thread)

    monkeypatch.setattr(threading.Thread, "_bootstrap", begun)
    monkeypatch.setattr("lumina.threads.START_SECONDS", 0.2)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_thread_without_memory_does_not_hang_the_run(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        runs = Runs(tmp_path, monkeypatch)
        options = {"steps": 2, "eval_fraction": 0.0}
        whole = runs.train(**options)
        lacking_memory(monkeypatch)
        run = runs.train(**options)
    assert run.column("loss") == whole.column("loss")
    (event,) = (e for e in run.events if e["kind"] == "fewer_reading_threads")
    assert "did not begin within 0.2 seconds" in event["message"]


@pytest.mark.covers("TRN-36: graceful degradation around worker failures")
@pytest.mark.parametrize(
    ("after", "said"),
    [
        pytest.param(0, "not made ahead", marks=pytest.mark.thorough),
        (2, "one thread"),
    ],
)
def test_fewer_threads_give_the_same_losses(tmp_path: Path, after, said) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        runs = Runs(tmp_path, monkeypatch)
        options = {"steps": 5, "prefetch_threads": 3, "eval_fraction": 0.0}
        whole = runs.train(**options)
        refusing(monkeypatch, after)
        run = runs.train(**options)
    assert run.column("loss") == whole.column("loss")
    (event,) = (e for e in run.events if e["kind"] == "fewer_reading_threads")
    assert said in event["message"] and "can't start new thread" in event["message"]
    assert not [e for e in whole.events if e["kind"] == "fewer_reading_threads"]
