"""Ctrl-C and SIGTERM: a checkpoint at the next step, the right exit code, no loss."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from training import (
    DENSE,
    INTERRUPT,
    MOE,
    PATIENCE,
    TERMINATE,
    assert_same_run,
    checkpoints,
    events,
    reached,
    rows,
    wait_until,
    words,
)

STEPS = 30
FLAGS = [
    *DENSE,
    *words(f"--precision fp32 --steps {STEPS} --dropout 0.1 --ema-decay 0.9"),
    *words("--eval-every-n-batches 7"),
]


@pytest.fixture(scope="module")
def whole(trainings):
    return trainings.train("whole", *FLAGS)


@pytest.mark.faults
@pytest.mark.covers("CKP-01: emergency", "CKP-09: --auto-resume", "CKP-14")
@pytest.mark.parametrize(
    ("number", "code"),
    [(INTERRUPT, 130), (TERMINATE, 143), (signal.SIGHUP, 129)],
    ids=["ctrl-c", "sigterm", "sighup"],
)
def test_a_signal_saves_at_the_next_step(trainings, whole, number, code):
    name = f"stopped-{code}"
    running = trainings.start(name, *FLAGS, HOLD_AFTER="4")
    folder = trainings.folder / name
    assert wait_until(reached(folder, 4), running)
    running.send(number)
    assert running.wait() == code, running.output
    last = rows(folder)[-1]["step"]
    assert last == 5
    assert checkpoints(folder) == [f"step-{last:08d}"]
    saved = events(folder, "checkpoint_saved")[-1]
    assert saved["data"]["checkpoint_kind"] == "emergency"
    assert events(folder, "run_interrupted")
    assert "Traceback" not in running.output and "--resume" in running.output
    assert_same_run(trainings.train(name, *FLAGS, "--auto-resume"), whole)


@pytest.mark.faults
def test_a_second_ctrl_c_ends_at_once(trainings):
    """In the middle of a step that never ends."""
    heard = trainings.folder / "twice.heard"
    flags = [*FLAGS, "--save-every-n-batches", "1"]
    running = trainings.start("twice", *flags, HOLD_AFTER="1", HEARD=str(heard))
    folder = trainings.folder / "twice"
    assert wait_until(reached(folder, 1), running)
    running.send(INTERRUPT)
    assert wait_until(heard.exists, running)
    running.send(INTERRUPT)
    assert running.wait() == 130
    assert "stopped at once" in running.output
    assert not events(folder, "run_interrupted")


def launched(trainings, name, *flags):
    """`lumina train --nproc 2`, as a person starts it."""
    log = open(trainings.folder / f"{name}.log", "w")  # noqa: SIM115
    command = trainings.command(name, *flags, "--nproc", "2")
    return subprocess.Popen(
        [sys.executable, "-m", "lumina", *command],
        stdout=log,
        stderr=subprocess.STDOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


@pytest.mark.faults
def test_two_ranks_agree_on_the_step_they_stop_at(trainings):
    flags = [*MOE, *words("--precision fp32 --steps 100000 --batch-size 2")]
    folder = trainings.folder / "two"
    process = launched(trainings, "two", *flags)
    assert wait_until(reached(folder, 3))
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(PATIENCE) == 143, trainings.output("two")
    last = rows(folder)[-1]["step"]
    assert last < 100000 and checkpoints(folder) == [f"step-{last:08d}"]
    assert "Traceback" not in trainings.output("two")
    # Both ranks' tensors are of that step: one process can read and go on with them.
    one = trainings.train("two", *MOE, *words(f"--auto-resume --steps {last + 2}"))
    assert [r["step"] for r in rows(one)] == list(range(1, last + 3))


@pytest.mark.faults
@pytest.mark.parametrize("ranks", [1, 2])
def test_sigusr1_saves_and_the_run_goes_on(trainings, ranks):
    """Through the launcher with several ranks; a hang-up that nohup ignores."""
    name = f"asked-{ranks}"
    flags = [*DENSE, *words("--precision fp32 --steps 100000 --batch-size 2")]
    folder = trainings.folder / name
    log = open(trainings.folder / f"{name}.log", "w")  # noqa: SIM115
    command = [*trainings.command(name, *flags), "--nproc", str(ranks)]
    process = subprocess.Popen(
        ["nohup", sys.executable, "-m", "lumina", *command],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    assert wait_until(reached(folder, 2))
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGUSR1)
    assert wait_until(lambda: events(folder, "checkpoint_saved"))
    (saved,) = events(folder, "checkpoint_saved")
    assert saved["data"]["checkpoint_kind"] == "regular"
    assert wait_until(reached(folder, saved["step"] + 3))
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 143, trainings.output(name)
    last = rows(folder)[-1]["step"]
    assert checkpoints(folder) == [f"step-{saved['step']:08d}", f"step-{last:08d}"]


@pytest.mark.faults
def test_a_dying_rank_ends_the_others(trainings):
    flags = [*DENSE, *words("--precision fp32 --steps 100000 --batch-size 2")]
    folder = trainings.folder / "dying"
    process = launched(trainings, "dying", *flags)
    assert wait_until(reached(folder, 2))
    ranks = children(process.pid)
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    assert process.wait(PATIENCE) not in (0, None)
    assert not any(alive(pid) for pid in ranks)
    output = trainings.output("dying")
    assert "Traceback" not in output
    assert "rank 1 was ended by signal 9" in output and "--auto-resume" in output


@pytest.mark.faults
def test_ranks_do_not_outlive_a_killed_launcher(trainings):
    flags = [*DENSE, *words("--precision fp32 --steps 100000 --batch-size 2")]
    folder = trainings.folder / "orphans"
    process = launched(trainings, "orphans", *flags)
    assert wait_until(reached(folder, 2))
    ranks = children(process.pid)
    process.kill()
    process.wait()
    assert wait_until(lambda: not any(alive(pid) for pid in ranks))


def children(pid):
    """Processes that `pid` started."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return sorted(int(word) for word in text.split())


def alive(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        return stat.rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
