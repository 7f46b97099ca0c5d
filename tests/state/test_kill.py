"""kill -9 of a real process that saves without pause: LATEST is always whole."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from lumina.state.checkpoint import CheckpointStore, open_checkpoint
from lumina.state.run_directory import RunDirectory
from mechanisms import mechanism
from states import Events, assert_state_is, make_state
from training import start_process

ROWS = 4096  # 400 kB a checkpoint: enough to be killed half-way


def save_for_ever(path):
    run = RunDirectory(path).acquire(resume=True)
    store = CheckpointStore(run, keep=2)
    latest = store.latest_good()
    step = open_checkpoint(latest).meta.step if latest else 0
    while True:
        step += 1
        store.save(make_state(step, ROWS), "best" if step % 3 == 0 else "regular")


def kill_and_look(path, rounds, chance):
    reached = 0
    for _ in range(rounds):
        process = start_process(save_for_ever, path)
        deadline = time.monotonic() + 120
        before = (path / "checkpoints" / "LATEST").stat().st_ino if reached else None
        while time.monotonic() < deadline:
            pointer = path / "checkpoints" / "LATEST"
            if pointer.exists() and pointer.stat().st_ino != before:
                break
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.15))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        events = Events()
        latest = CheckpointStore(path, on_event=events.emit).latest_good()
        assert events == [], "LATEST named a checkpoint that is not whole"
        found = open_checkpoint(latest).state()
        assert found.step > reached or before is None
        reached = found.step
        assert_state_is(found, make_state(reached, ROWS))


@pytest.mark.faults
@pytest.mark.covers("CKP-13: recovery from crash")
def test_five_kills_at_random_moments_lose_nothing(tmp_path):
    kill_and_look(tmp_path / "run", 5, random.Random(5))
    with RunDirectory(tmp_path / "run").acquire(resume=True) as run:
        names = {p.name.rstrip("0123456789") for p in run.checkpoints.iterdir()}
    assert names <= {"step-", "LATEST", "BEST"}, "something half written is left"


@pytest.mark.slow
@pytest.mark.faults
def test_sixty_kills_at_random_moments_lose_nothing(tmp_path):
    kill_and_look(tmp_path / "run", 60, random.Random())


@mechanism(
    "killed between two renames",
    component="checkpoint",
    failure="SIGKILL after the older checkpoint of a step was moved away, before the "
    "newer has its name",
    recovery="resume",
    expected="the older one is put back",
)
@pytest.mark.faults
@pytest.mark.parametrize("step", [1, 2])
def test_killed_between_two_names_of_one_step(tmp_path, step):
    """The older checkpoint of the step was moved away, the newer not yet in place."""
    run = tmp_path / "run"
    store = CheckpointStore(run)
    for saved in (1, 2):
        store.save(make_state(saved))
    store.close()
    name = f"step-0000000{step}"
    folder = run / "checkpoints"
    (folder / name).rename(folder / f".replaced-{name}")
    (folder / f".tmp-{name}-0001").mkdir()
    with RunDirectory(run).acquire(resume=True) as directory:
        assert len(directory.cleared) == 2
    latest = CheckpointStore(run).latest_good()
    assert_state_is(open_checkpoint(latest).state(), make_state(2))
    assert {p.name for p in folder.iterdir()} == {
        "LATEST",
        "step-00000001",
        "step-00000002",
    }
