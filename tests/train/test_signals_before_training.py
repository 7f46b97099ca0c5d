"""Signals while a run is being prepared and built: they end it, and it says so."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from import_path import finding
from lumina.assemble.ranks import meeting_place
from lumina.state.run_directory import RunDirectory
from lumina.train import signals
from mechanisms import mechanism
from training import DENSE, PATIENCE, Running, Trainings, start, wait_until, words

FLAGS = [*DENSE, *words("--precision fp32 --steps 4")]
SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


def _dawdle(marker: Path) -> None:
    """Never come to an end, in Python."""
    marker.touch()
    while True:
        time.sleep(0.1)


def _dawdle_in_a_library(marker: Path) -> None:
    """Never come to an end, in one call that no signal interrupts."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    marker.touch()
    ctypes.CDLL(None).sleep(10**6)


def _hold_up(stage: str, marker: Path) -> None:
    """In the process of a command: it comes to a stage and never gets over it."""
    from lumina.assemble.ranks import Ranks
    from lumina.data import store_building, text_data, text_files
    from lumina.train import start

    def slow(*_, **__):
        _dawdle(marker)

    # The main thread waits for a thread or a library that does not come back.
    if stage in ("scan", "tokenizer", "library", "barrier"):
        signals.STUCK_SECONDS = 0.5
    if stage == "scan":
        text_files.scan = slow
    elif stage == "tokenizer":
        # In a generator that the library of tokenizers runs.
        whole = text_files.TextFiles.sample

        def sample(self, most):
            for text in whole(self, most):
                yield text
                _dawdle(marker)

        text_files.TextFiles.sample = sample
    elif stage == "tokens":
        store_building.encode_marked = slow
    elif stage == "resume":
        text_data.prepare = slow
    elif stage == "model":
        start.assemble = slow
    elif stage == "library":
        start.assemble = lambda *_, **__: _dawdle_in_a_library(marker)
    elif stage == "barrier":
        whole_barrier = Ranks.barrier

        def barrier(self):
            marker.touch()
            whole_barrier(self)

        Ranks.barrier = barrier


def started(
    trainings: Trainings, stage: str, name: str, *flags: str, **environment: str
) -> tuple[Running, Path]:
    """A training that will stay at a stage, and the file that says it is there."""
    rank = environment.get("RANK", "")
    marker = trainings.folder / f"{name}{rank}.here"
    trainings.folder.mkdir(parents=True, exist_ok=True)
    running = start(
        trainings.command(name, *FLAGS, *flags),
        trainings.folder / f"{name}{rank}.log",
        before=partial(_hold_up, stage, marker),
        **environment,
    )
    return running, marker


def held_up(trainings: Trainings, stage: str, name: str, *flags: str) -> Running:
    """A training that has come to a stage, and stays there."""
    running, marker = started(trainings, stage, name, *flags)
    assert wait_until(marker.exists, running), running.output
    return running


@pytest.fixture(scope="module")
def fresh(tmp_path_factory, lumina_cache):
    """Data whose tokenizer and tokens no other test has made."""

    def make(name: str) -> Trainings:
        folder = tmp_path_factory.mktemp("signals")
        lines = (f"{name} went to the wood on day {n}.\n" for n in range(500))
        (folder / "text.txt").write_text("".join(lines))
        return Trainings(folder / "runs", folder / "text.txt", [])

    return make


def assert_ended(running: Running, number: int, code: int) -> None:
    running.send(number)
    assert running.wait() == code, running.output
    said = running.output
    assert f"ended by {signal.Signals(number).name} before a step was trained" in said
    for word in ("Traceback", "panicked", "unexpected", "Error"):
        assert word not in said, said


@mechanism(
    "ended while data is prepared",
    component="process",
    failure="SIGINT or SIGTERM while files are read, or a tokenizer or tokens are made",
    recovery="end at once",
    expected="no run directory, nothing half made in the cache; the next start "
    "succeeds",
)
@pytest.mark.faults
@pytest.mark.parametrize(("number", "code"), SIGNALS[:2], ids=["ctrl-c", "sigterm"])
@pytest.mark.parametrize("stage", ["scan", "tokenizer", "tokens"])
def test_a_signal_while_data_is_prepared_begins_no_run(fresh, stage, number, code):
    trainings = fresh(f"{stage}{code}")
    running = held_up(trainings, stage, "r")
    assert_ended(running, number, code)
    assert not (trainings.folder / "r").exists()
    # Nothing half made stays in the cache to be taken for whole.
    trainings.train("r", *FLAGS)


@mechanism(
    "ended while libraries are loaded",
    component="process",
    failure="SIGINT, SIGTERM or SIGHUP in the first second, of one rank or two",
    recovery="end at once",
    expected="the exit code of the signal, no traceback",
)
@pytest.mark.faults
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(("number", "code"), SIGNALS, ids=["c", "sigterm", "sighup"])
def test_a_signal_while_torch_is_loaded(tmp_path, number, code, ranks):
    marker = tmp_path / "here"
    (tmp_path / "torch.py").write_text(
        f"import pathlib, time\npathlib.Path({str(marker)!r}).touch()\n"
        "while True:\n    time.sleep(0.1)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "lumina", "train", "--train-data", "x", "--nproc",
         str(ranks)],
        cwd=tmp_path,
        env=finding(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    assert wait_until(marker.exists)
    process.send_signal(signal.SIGUSR1)  # asks for a checkpoint, and ends nothing
    process.send_signal(number)
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, said
    name = signal.Signals(number).name
    word = "interrupted" if number == signal.SIGINT else f"ended by {name} before"
    assert word in said and "Traceback" not in said


@mechanism(
    "ended while the model is built",
    component="process",
    failure="SIGINT, SIGTERM or SIGHUP before the first step",
    recovery="end at once",
    expected="status.json says interrupted; --auto-resume trains it",
)
@pytest.mark.faults
@pytest.mark.parametrize(("number", "code"), SIGNALS, ids=["c", "sigterm", "sighup"])
def test_a_signal_while_the_model_is_built_is_no_running_run(fresh, number, code):
    trainings = fresh(f"model{code}")
    running = held_up(trainings, "model", "r")
    status = json.loads((trainings.folder / "r" / "status.json").read_text())
    assert status["status"] == "running"
    assert_ended(running, number, code)
    status = json.loads((trainings.folder / "r" / "status.json").read_text())
    assert status["status"] == "interrupted"
    trainings.train("r", *FLAGS, "--auto-resume")
    assert RunDirectory(trainings.folder / "r").finished


@mechanism(
    "stuck library",
    component="process",
    failure="SIGTERM while native code that blocks signals never returns",
    recovery="end at once",
    expected="a thread ends the process with code 143",
)
@pytest.mark.faults
def test_a_library_that_does_not_come_back_holds_no_signal_up(fresh):
    trainings = fresh("library")
    running = held_up(trainings, "library", "r")
    assert_ended(running, signal.SIGTERM, 143)
    status = json.loads((trainings.folder / "r" / "status.json").read_text())
    assert status["status"] == "interrupted"


@mechanism(
    "ended while a rank waits for another",
    component="rank",
    failure="SIGTERM while rank 1 waits in the communication library for rank 0",
    recovery="end all ranks",
    expected="both end with code 143",
)
@pytest.mark.faults
def test_a_rank_that_waits_for_the_data_ends_too(fresh):
    """Rank 1 waits in a library for rank 0, which prepares the data."""
    trainings = fresh("ranks")
    store, place = meeting_place()
    flags = words("--batch-size 2")
    ranks = [
        started(
            trainings, stage, "r", *flags, **place, RANK=str(rank), WORLD_SIZE="2",
            LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2",
        )
        for rank, stage in enumerate(["scan", "barrier"])
    ]  # fmt: skip
    for running, marker in ranks:
        assert wait_until(marker.exists, running), running.output
    # The rank that waits first: it fails as soon as it has lost the one it waits for.
    for running, _ in reversed(ranks):
        running.send(signal.SIGTERM)
    assert [running.wait() for running, _ in ranks] == [143, 143]
    assert "ended by SIGTERM" in ranks[0][0].output
    for running, _ in ranks:
        assert "Traceback" not in running.output
    assert not (trainings.folder / "r").exists()
    del store


@pytest.mark.faults
def test_a_killed_run_whose_resume_is_ended_early_is_not_running(fresh):
    trainings = fresh("killed")
    run = trainings.train("r", *FLAGS)
    RunDirectory(run).mark("running", 4)  # as kill -9 leaves it
    running = held_up(trainings, "resume", "r", "--auto-resume", "--steps", "6")
    assert_ended(running, signal.SIGTERM, 143)
    status = json.loads((run / "status.json").read_text())
    assert (status["status"], status["step"]) == ("interrupted", 4)


def test_a_signal_to_a_child_is_not_taken_for_ones_own(monkeypatch):
    """Libraries fork helpers, and end them with SIGTERM."""
    monkeypatch.setattr(signals, "STUCK_SECONDS", 0.2)
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    with signals.StopSignals() as caught:
        child = _forked_sleeper()
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        time.sleep(1)
    assert ended == [] and caught.received is None


def _forked_sleeper() -> int:
    """A child that heeds signals as it was told before the fork.

    It has to be forked, since what it inherits is what is tested. That is safe though
    this process may have threads: the child makes system calls only, and takes no lock
    that another thread could have held at the fork.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, b"x")
            time.sleep(30)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.read(reading, 1)
    return child
