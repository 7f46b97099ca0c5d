"""Ctrl-C and SIGTERM: a checkpoint at the next step, the right exit code, no loss."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from mechanisms import mechanism
from training import (
    DENSE,
    INTERRUPT,
    MOE,
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
ENDLESS = 100_000
FLAGS = [
    *DENSE,
    *words(f"--precision fp32 --steps {STEPS} --dropout 0.1 --ema-decay 0.9"),
    *words("--eval-every-n-batches 7"),
]


@pytest.fixture(scope="module")
def whole(trainings):
    return trainings.train("whole", *FLAGS)


@mechanism(
    "hang-up",
    component="process",
    failure="SIGHUP in a step: the terminal is closed",
    recovery="save and end",
    expected="a checkpoint of the next step, exit code 129; resumed as undisturbed",
    case="sighup",
)
@mechanism(
    "SIGTERM",
    component="process",
    failure="SIGTERM in a step, as schedulers send it",
    recovery="save and end",
    expected="a checkpoint of the next step, exit code 143; resumed as undisturbed",
    case="sigterm",
)
@mechanism(
    "Ctrl-C",
    component="process",
    failure="SIGINT in a step",
    recovery="save and end",
    expected="a checkpoint of the next step, exit code 130; resumed as undisturbed",
    case="ctrl-c",
)
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


@mechanism(
    "a second Ctrl-C",
    component="process",
    failure="SIGINT twice in a step that never ends",
    recovery="end at once",
    expected="exit code 130 at once; the last checkpoint stands",
)
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


def launched(trainings, name, *flags, ranks=2, **environment):
    """`lumina train --nproc N`, which does not end by itself."""
    flags = [*flags, *words(f"--steps {ENDLESS} --batch-size 2 --nproc {ranks}")]
    return trainings.start(name, *flags, **environment)


@pytest.mark.faults
@pytest.mark.parametrize("ranks", [1, 2])
def test_sigusr1_saves_and_the_run_goes_on_until_all_ranks_stop(trainings, ranks):
    """Through the launcher with several ranks; a hang-up that nohup ignores."""
    name = f"asked-{ranks}"
    model = [*(MOE if ranks > 1 else DENSE), *words("--precision fp32")]
    folder = trainings.folder / name
    running = launched(trainings, name, *model, ranks=ranks, NOHUP="1")
    assert wait_until(reached(folder, 2), running)
    running.send(signal.SIGHUP)
    running.send(signal.SIGUSR1)
    assert wait_until(lambda: events(folder, "checkpoint_saved"), running)
    (saved,) = events(folder, "checkpoint_saved")
    assert saved["data"]["checkpoint_kind"] == "regular"
    assert wait_until(reached(folder, saved["step"] + 3), running)
    running.send(TERMINATE)
    assert running.wait() == 143, running.output
    last = rows(folder)[-1]["step"]
    assert last < ENDLESS
    assert checkpoints(folder) == [f"step-{saved['step']:08d}", f"step-{last:08d}"]
    assert "Traceback" not in running.output
    # The tensors of all ranks are of that step: one process can read and go on with
    # them.
    one = trainings.train(name, *model, *words(f"--auto-resume --steps {last + 2}"))
    assert [r["step"] for r in rows(one)] == list(range(1, last + 3))


@mechanism(
    "killed rank",
    component="rank",
    failure="SIGKILL of one rank of two",
    recovery="end all ranks",
    expected="the others are ended, the rank and the signal are named, exit code not 0",
)
@pytest.mark.faults
def test_a_dying_rank_ends_the_others(trainings):
    folder = trainings.folder / "dying"
    running = launched(trainings, "dying", *DENSE)
    assert wait_until(reached(folder, 2), running)
    ranks = children(running.process.pid)
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    assert running.wait() != 0
    assert not any(alive(pid) for pid in ranks)
    output = running.output
    assert "Traceback" not in output
    assert "rank 1 was ended by signal 9" in output and "--auto-resume" in output


@mechanism(
    "killed launcher",
    component="launcher",
    failure="SIGKILL of the process that started the ranks",
    recovery="end all ranks",
    expected="no rank outlives it",
)
@pytest.mark.faults
def test_ranks_do_not_outlive_a_killed_launcher(trainings):
    """Not even when they have hardly begun."""
    running = launched(trainings, "orphans", *DENSE)
    assert wait_until(lambda: len(children(running.process.pid)) == 2, running)
    ranks = children(running.process.pid)
    running.kill()
    assert wait_until(lambda: not any(alive(pid) for pid in ranks))


def children(pid):
    """Processes that `pid` started, the first one first."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def alive(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        return stat.rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
