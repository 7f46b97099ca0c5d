"""Trainings that are killed, stopped and damaged under their supervisor go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lumina.state.reader import latest_good
from mechanisms import mechanism
from training import (
    DENSE,
    TERMINATE,
    assert_same_run,
    events,
    reached,
    rows,
    wait_until,
    words,
)

FLAGS = [
    *DENSE,
    *words("--precision fp32 --steps 24 --dropout 0.1 --save-every-n-batches 5"),
]
SUPERVISED = words("--supervise --restart-delay 0.1")

FAULTS = '''
"""Something happens to a rank in a step, once."""
import ctypes
import os
import signal
import time
from pathlib import Path

import lumina.train.loop as loop
from lumina import heartbeat

take_step, here = loop.train_step, Path(__file__).parent
RANK = os.environ.get("RANK", "0")


def damage():
    checkpoints = Path(os.environ["RUN"]) / "checkpoints"
    newest = sorted(checkpoints.glob("step-*"))[-1]
    file = max(newest.glob("*.safetensors"), key=lambda p: p.stat().st_size)
    file.chmod(0o644)
    with open(file, "r+b") as out:
        out.seek(-8, 2)
        out.write(bytes(range(8)))


def saved(step):
    """Wait until the checkpoint that is due by a step is the newest one on disk.

    However long that takes, this process does not hang.
    """
    newest = f"step-{step // 5 * 5:08}"
    latest = Path(os.environ["RUN"]) / "checkpoints" / "LATEST"
    while not (latest.exists() and newest in latest.read_text()):
        heartbeat.still()
        time.sleep(0.02)


def cut():
    """Every connection of this process breaks, as where the network does."""
    import psutil
    import socket

    for one in psutil.Process().net_connections("tcp"):
        if one.status == psutil.CONN_ESTABLISHED:
            with socket.socket(fileno=os.dup(one.fd)) as link:
                link.shutdown(socket.SHUT_RDWR)


def faulty(program, batches, step, **more):
    for entry in os.environ["FAULTS"].split():
        at, what, rank = entry.split(":")
        mark = here / entry.replace(":", "-")
        if step != int(at) or rank != RANK or mark.exists():
            continue
        mark.touch()
        saved(step)
        if what == "damage":
            damage()
            what = "SIGKILL"
        if what == "cut":
            cut()
            break
        if what == "assert":
            raise RuntimeError("CUDA error: device-side assert triggered")
        if what == "segfault":
            ctypes.string_at(0)
        if what == "sleep":
            time.sleep(999)
        os.kill(os.getpid(), getattr(signal, what))
    return take_step(program, batches, step, **more)


loop.train_step = faulty
'''


@pytest.fixture(scope="module")
def whole(trainings):
    return trainings.train("whole", *FLAGS)


def faulty(trainings, name: str, faults: str, *flags: str, code: int = 0) -> Path:
    """A run to which these faults happen, each of them STEP:WHAT:RANK."""
    folder = trainings.folder / f"{name}-faults"
    folder.mkdir()
    (folder / "faults.py").write_text(FAULTS)
    return trainings.train(
        name,
        *FLAGS,
        *SUPERVISED,
        *flags,
        "--plugins",
        str(folder / "faults.py"),
        code=code,
        FAULTS=faults,
        RUN=str(trainings.folder / name),
    )


@mechanism(
    "three crashes under the supervisor",
    component="supervisor",
    failure="an assertion of CUDA, a segmentation fault and SIGKILL, one after another",
    recovery="restart",
    expected="started again each time from the newest checkpoint; figures as "
    "undisturbed",
)
@pytest.mark.faults
@pytest.mark.thorough
@pytest.mark.covers("CKP-13: recovery from crash", "TRN-37: error recovery with state "
                    "tracking")  # fmt: skip
def test_a_run_that_crashes_three_times_is_the_run_that_does_not(trainings, whole):
    """An exception of CUDA, a segmentation fault, and a kill: not a bit differs."""
    run = faulty(trainings, "crashes", "7:assert:0 13:segfault:0 18:SIGKILL:0")
    assert_same_run(run, whole)
    ended, restarted = events(run, "process_ended"), events(run, "restarted")
    assert [event["step"] for event in ended] == [7, 13, 18]
    assert "segfault" not in ended[0]["message"]
    assert "string_at" in ended[1]["data"]["stack"]
    # Before an exception leaves the run, its last whole step is saved.
    assert [event["data"]["steps_lost"] for event in restarted] == [0, 3, 3]
    assert all(event["data"]["seconds_lost"] > 0 for event in restarted)
    assert "device-side assert" in restarted[0]["message"]
    assert "restart 3 by the supervisor" in trainings.output("crashes")
    assert "device-side assert" in (run / "report.html").read_text()


@mechanism(
    "crash behind a damaged checkpoint",
    component="supervisor",
    failure="the newest checkpoint is damaged and the process ends",
    recovery="restart",
    expected="started again from the checkpoint before; figures as undisturbed",
)
@pytest.mark.faults
@pytest.mark.thorough
def test_behind_a_damaged_checkpoint_an_older_one_is_taken(trainings, whole):
    run = faulty(trainings, "damaged", "18:damage:0")
    assert_same_run(run, whole)
    (refused,) = events(run, "checkpoint_refused")
    assert "step-00000015" in refused["message"]
    (restarted,) = events(run, "restarted")
    assert (restarted["step"], restarted["data"]["steps_lost"]) == (10, 8)


@mechanism(
    "killed rank under the supervisor",
    component="rank",
    failure="SIGKILL of one of two ranks in a step of a supervised run",
    recovery="restart",
    expected="the rank is named; both are started again from the newest checkpoint",
    case="SIGKILL",
)
@mechanism(
    "stopped rank",
    component="rank",
    failure="SIGSTOP of one of two ranks, which is never continued",
    recovery="restart",
    expected="the rank is named; both are ended and started again",
    case="SIGSTOP",
)
@mechanism(
    "hung rank",
    component="rank",
    failure="one of two ranks sleeps for ever in a step, and the other waits for it",
    recovery="restart",
    expected="the rank and its stack are named; both are ended and started again",
    case="sleep",
)
@pytest.mark.faults
@pytest.mark.thorough
@pytest.mark.parametrize("what", ["sleep", "SIGSTOP", "SIGKILL"])
@pytest.mark.covers("DST-19: node failure")
def test_a_rank_that_hangs_or_dies_is_named_and_the_run_goes_on(trainings, what):
    """Two gloo ranks, of which one waits in a collective for the other."""
    ranks = words("--nproc 2 --batch-size 2 --hang-timeout 2")
    run = faulty(trainings, f"ranks-{what}", f"12:{what}:1", *ranks)
    assert [row["step"] for row in rows(run)] == list(range(1, 25))
    # A machine that stalls for as long as a step may take is no fault of the run.
    all_ended = events(run, "process_ended")
    number, ended = next((n, e) for n, e in enumerate(all_ended) if e["step"] >= 12)
    assert ended["data"]["rank"] == 1 and "rank 1" in ended["message"]
    if what != "SIGKILL":
        told = events(run, "hang_suspected")
        suspected = next(event for event in told if event["step"] >= 12)
        assert suspected["data"]["ranks"] == [1]
        stack = ended["data"]["stack"]
        # A stopped process goes on, to be asked where it is.
        assert "most recent call first" in stack
        assert "faults.py" in stack or what == "SIGSTOP"
    restarted = events(run, "restarted")[number]
    # One that was stopped goes on for a moment, to write its stack.
    assert restarted["data"]["steps_lost"] == 2 or what == "SIGSTOP"


@mechanism(
    "network interruption",
    component="rank",
    failure="the connections of one of two ranks break in a step",
    recovery="restart",
    expected="both ranks end with an error, and go on from the newest checkpoint; "
    "figures as undisturbed",
)
@pytest.mark.faults
@pytest.mark.thorough
@pytest.mark.covers("DST-19: network interruption")
def test_a_network_that_breaks_costs_the_steps_since_the_last_checkpoint(trainings):
    """Both processes live on, and neither can reach the other."""
    ranks = words("--nproc 2 --batch-size 2 --dropout 0")
    run = faulty(trainings, "network", "12:cut:1", *ranks)
    assert [row["step"] for row in rows(run)] == list(range(1, 25))
    (ended,) = events(run, "process_ended")
    assert ended["step"] == 12 and ended["data"]["signal"] is None
    (restarted,) = events(run, "restarted")
    assert restarted["data"]["steps_lost"] == 2
    calm = trainings.train_on_ranks(
        "calm", *FLAGS, *words("--batch-size 2 --dropout 0")
    )
    assert_same_run(run, calm)


@mechanism(
    "supervised run is asked to end",
    component="supervisor",
    failure="SIGUSR1, then SIGTERM of the supervisor",
    recovery="save and end",
    expected="the signals reach the training: a checkpoint each, code 143, no restart",
)
@pytest.mark.faults
@pytest.mark.thorough
def test_a_signal_ends_a_supervised_run_with_a_checkpoint(trainings):
    # No checkpoint is saved that nobody asked for.
    endless = words("--steps 100000 --save-every-n-batches 100000")
    running = trainings.start("asked", *FLAGS, *SUPERVISED, *endless)
    folder = trainings.folder / "asked"
    assert wait_until(reached(folder, 3), running)
    running.send(signal.SIGUSR1)
    assert wait_until(lambda: events(folder, "checkpoint_saved"), running)
    running.send(TERMINATE)
    assert running.wait() == 143, running.output
    assert events(folder, "run_interrupted") and not events(folder, "restarted")
    last = rows(folder)[-1]["step"]
    assert events(folder, "checkpoint_saved")[-1]["step"] == last
    assert latest_good(folder).name == f"step-{last:08d}"


@mechanism(
    "error that a restart does not mend",
    component="supervisor",
    failure="a supervised run whose data is not there",
    recovery="refuse",
    expected="E104, and it is not started again",
)
@pytest.mark.faults
@pytest.mark.thorough
def test_what_would_fail_again_is_not_started_again(trainings):
    run = "refused"
    trainings.train(run, *FLAGS, *SUPERVISED, "--train-data", "/nowhere", code=1)
    said = trainings.output(run)
    assert "E104" in said and "is not started again" in said


@pytest.mark.faults
@pytest.mark.thorough
def test_a_long_run_of_the_command_is_supervised_by_itself(trainings):
    """The command that a shell starts; the process that it started stays the same."""
    command = trainings.command("long", *FLAGS, *words("--steps 900000000"))
    log = trainings.folder / "long.log"
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "lumina", *command],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    folder = trainings.folder / "long"
    try:
        assert wait_until(lambda: reached(folder, 3)() or process.poll() is not None)
        text = " ".join(log.read_text().split())
        assert "supervised yes: about" in text and "more than an hour" in text
        assert Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143
        assert events(folder, "run_interrupted")
    finally:
        process.kill()


def under_torchrun(trainings, name: str, faults: str, *flags: str):
    """Two ranks of its elastic agent, which starts them again once."""
    folder = trainings.folder / f"{name}-faults"
    folder.mkdir()
    (folder / "faults.py").write_text(FAULTS)
    command = trainings.command(
        name, *FLAGS, "--auto-resume", "--batch-size", "2", *flags, "--plugins",
        str(folder / "faults.py"),
    )  # fmt: skip
    agent = words("--nproc-per-node 2 --max-restarts 1 --rdzv-backend c10d "
                  "--rdzv-endpoint localhost:0 --monitor-interval 0.1")  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *agent, "-m", "lumina",
         *command],
        capture_output=True,
        text=True,
        env=os.environ
        | {
            "OMP_NUM_THREADS": "1",
            "FAULTS": faults,
            "RUN": str(trainings.folder / name),
        },
        timeout=300,
    )  # fmt: skip


@mechanism(
    "killed rank under torchrun",
    component="rank",
    failure="SIGKILL of one of two ranks that torchrun started with restarts",
    recovery="restart",
    expected="the ranks meet anew and go on from the newest checkpoint; every row once",
)
@pytest.mark.faults
@pytest.mark.thorough
@pytest.mark.covers("DST-19: node failure")
def test_torchrun_starts_the_ranks_again_and_the_run_goes_on(trainings):
    """Its elastic agent, with two processes, of which one is killed."""
    done = under_torchrun(trainings, "elastic", "12:SIGKILL:1")
    assert done.returncode == 0, done.stdout + done.stderr
    run = trainings.folder / "elastic"
    assert [row["step"] for row in rows(run)] == list(range(1, 25))
    (restarted,) = events(run, "restarted")
    assert restarted["data"]["by"] == "torchrun" and restarted["step"] == 10
    assert "no: torchrun" in done.stdout or "no: a launcher" in done.stdout


@mechanism(
    "hang under torchrun",
    component="rank",
    failure="one of two ranks that torchrun started with restarts sleeps in a step",
    recovery="restart",
    expected="the ranks end themselves with their stacks, and go on from the newest "
    "checkpoint; every row once",
)
@pytest.mark.faults
@pytest.mark.thorough
def test_ranks_of_torchrun_that_hang_end_themselves_and_go_on(trainings):
    """Torchrun sees only ranks that have ended."""
    done = under_torchrun(trainings, "stuck", "12:sleep:1", "--hang-timeout", "8")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "this process hangs (step): no sign of life for" in done.stderr
    assert "time.sleep(999)" in done.stderr or "in faulty" in done.stderr
    run = trainings.folder / "stuck"
    assert [row["step"] for row in rows(run)] == list(range(1, 25))
    (restarted,) = events(run, "restarted")
    assert restarted["data"]["by"] == "torchrun" and restarted["step"] == 10
