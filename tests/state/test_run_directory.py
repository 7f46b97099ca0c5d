from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import time

import pytest

from interleaved import at_first
from lumina.errors import LuminaError
from lumina.state import liveness
from lumina.state.checkpoint import CheckpointStore, open_checkpoint
from lumina.state.metrics import MetricsLog, read_metrics
from lumina.state.run_directory import RunDirectory
from mechanisms import mechanism
from states import assert_state_is, make_state, unprivileged
from training import start_process, wait_until


def begin(path):
    run = RunDirectory(path).acquire()
    run.config.write_text("seed: 1\n")
    return run


def test_a_new_directory_has_a_telling_and_unused_name(tmp_path):
    runs = [RunDirectory.new("debug", tmp_path / "runs") for _ in range(3)]
    assert len({run.path for run in runs}) == 3
    for run in runs:
        assert re.fullmatch(r"debug-\d{8}-\d{6}(-\d)?", run.path.name)
        run.acquire().close()


def test_an_existing_run_is_refused_unless_resumed(tmp_path):
    begin(tmp_path / "run").close()
    with pytest.raises(LuminaError) as caught:
        RunDirectory(tmp_path / "run").acquire()
    assert caught.value.code == "E002" and "--auto-resume" in caught.value.hint
    assert (tmp_path / "run" / "config.yaml").read_text() == "seed: 1\n"
    RunDirectory(tmp_path / "run").acquire(resume=True).close()


def test_a_start_that_came_to_nothing_can_be_repeated(tmp_path):
    RunDirectory(tmp_path / "run").acquire().close()
    RunDirectory(tmp_path / "run").acquire().close()


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_something_else_is_left_alone(tmp_path, resume):
    (tmp_path / "thesis.tex").write_text("dear to somebody")
    with pytest.raises(LuminaError, match="E002"):
        RunDirectory(tmp_path).acquire(resume=resume)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_second_writer_is_refused(tmp_path):
    with begin(tmp_path / "run") as run:
        with pytest.raises(LuminaError, match=f"process {os.getpid()}") as caught:
            RunDirectory(run.path).acquire(resume=True)
        assert caught.value.code == "E002"
        run.close()
        RunDirectory(run.path).acquire(resume=True).close()


def test_who_looks_whether_a_run_goes_on_keeps_no_training_from_it(
    tmp_path, monkeypatch
):
    """`lumina runs`, at the very moment at which a training takes the lock."""
    begin(tmp_path / "run").close()
    with open(tmp_path / "run" / ".lock") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        at_first(monkeypatch, time, "sleep", lambda _: looking.close())
        with RunDirectory(tmp_path / "run").acquire(resume=True):
            assert liveness.is_locked(tmp_path / "run")


def test_a_supervisor_is_seen_though_another_ended_as_it_began(tmp_path, monkeypatch):
    first = liveness.supervise(tmp_path)
    at_first(
        monkeypatch,
        liveness,
        "held_alone",
        lambda _: liveness.end_supervision(tmp_path, first),
    )
    second = liveness.supervise(tmp_path)
    assert liveness.state_of(tmp_path) == "restarting"
    assert liveness.supervise(tmp_path) is None
    liveness.end_supervision(tmp_path, second)
    assert liveness.state_of(tmp_path) == "unknown"


def hold(path, forks):
    with RunDirectory(path).acquire(resume=True):
        if forks:
            reading, writing = os.pipe()
            if os.fork() == 0:
                os.write(writing, b"x")
                time.sleep(20)  # a worker that outlives its parent
                os._exit(0)
            os.read(reading, 1)
        (path / "held").touch()
        time.sleep(10**6)


@mechanism(
    "lock of a killed process",
    component="run folder",
    failure="SIGKILL of the process that holds the lock, also with children that live "
    "on",
    recovery="resume",
    expected="the lock is free",
)
@pytest.mark.faults
@pytest.mark.parametrize("forks", [False, True])
def test_a_killed_writer_leaves_no_lock(tmp_path, forks):
    path = tmp_path / "run"
    begin(path).close()
    process = start_process(hold, path, forks)
    assert wait_until((path / "held").exists)
    with pytest.raises(LuminaError, match="E002"):
        RunDirectory(path).acquire(resume=True)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    RunDirectory(path).acquire(resume=True).close()


def test_what_a_killed_writer_left_is_cleared_only_under_the_lock(tmp_path):
    with begin(tmp_path / "run") as run:
        left = run.checkpoints / ".tmp-step-00000001-0001"
        left.mkdir(parents=True)
        with pytest.raises(LuminaError):
            RunDirectory(run.path).acquire(resume=True)
        assert left.is_dir()
    with RunDirectory(run.path).acquire(resume=True) as run:
        assert run.cleared == [left.name] and not left.exists()


def test_a_file_in_the_way_is_e104(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(LuminaError, match="E104"):
            RunDirectory(path).acquire()
    with pytest.raises(LuminaError, match="E104"):
        RunDirectory.new("debug", tmp_path / "file")


def test_no_permission_is_e106(tmp_path):
    begin(tmp_path / "run").close()
    (tmp_path / "run" / ".lock").unlink()
    with unprivileged(tmp_path):
        with pytest.raises(LuminaError, match="E106"):
            RunDirectory(tmp_path / "other").acquire()
        with pytest.raises(LuminaError, match="E106"):
            RunDirectory.new("debug", tmp_path / "runs")
    with unprivileged(tmp_path / "run"), pytest.raises(LuminaError, match="E106"):
        RunDirectory(tmp_path / "run").acquire(resume=True)


def test_the_end_of_a_run_is_remembered(tmp_path):
    run = begin(tmp_path / "run")
    assert run.status() is None and not run.finished
    run.mark("running", 1)
    assert not run.finished
    run.mark("finished", 20, reason="done")
    run.close()
    status = RunDirectory(tmp_path / "run").status()
    assert (status["status"], status["step"]) == ("finished", 20)
    assert RunDirectory(tmp_path / "run").finished
    run.status_file.write_text("{")  # nothing but this file says it, so: not finished
    assert not run.finished


@pytest.mark.parametrize("carry", [shutil.copytree, shutil.move])
def test_a_copied_or_moved_run_is_the_same_run(tmp_path, carry, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with begin("run") as run:
        store = CheckpointStore(run)
        for step in (1, 2):
            store.save(make_state(step), "best" if step == 1 else "regular")
        store.close()
        metrics = MetricsLog(run.metrics)
        metrics.append({"step": 1, "loss": 2.5})
        metrics.close()
        run.mark("finished", 2)
    carry("run", "elsewhere")
    if carry is shutil.copytree:
        shutil.rmtree("run")
    with RunDirectory("elsewhere").acquire(resume=True) as there:
        assert there.finished
        store = CheckpointStore(there, keep=1)
        assert_state_is(open_checkpoint(store.latest_good()).state(), make_state(2))
        store.save(make_state(3))
        store.close()
    left = sorted(os.listdir("elsewhere/checkpoints"))
    assert left == ["BEST", "LATEST", "step-00000001", "step-00000003"]
    assert read_metrics("elsewhere") == [{"step": 1, "loss": 2.5}]
    for folder, _, names in os.walk("elsewhere"):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                assert str(tmp_path).encode() not in file.read()
