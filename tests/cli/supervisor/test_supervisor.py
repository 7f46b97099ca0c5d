"""Real processes that are killed, stopped and signalled under a supervisor.

The programs are not trainings: they leave the signs of one, and start in a moment.
`tests/train/test_supervised.py` does the same to trainings.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from lumina import heartbeat
from lumina.cli.supervisor import launch, processes
from lumina.cli.supervisor.supervisor import Settings, Supervisor
from lumina.cli.supervisor.training import restarted
from lumina.config import Config
from lumina.state.liveness import state_of
from mechanisms import mechanism
from stand_ins import stand_in
from supervised_programs import OFF, Tried
from training import wait_until


@pytest.mark.covers("TRN-37: error recovery with state tracking")
def test_a_killed_program_is_started_again_and_told_why(tmp_path: Path) -> None:
    tried = Tried(
        tmp_path,
        "steps(0, 8)\nif attempt == 0: os.kill(os.getpid(), signal.SIGKILL)\n",
    )
    assert tried.run() == 0
    told = json.loads((tmp_path / "began-1").read_text())
    assert (told["number"], told["step"]) == (1, 7)
    assert told["run"] == str(tmp_path / "run")
    assert "signal 9 (Killed)" in told["cause"]
    (event,) = tried.events()
    assert (event["kind"], event["step"]) == ("process_ended", 7)
    assert event["data"]["signal"] == signal.SIGKILL


@mechanism(
    "crash in a loop",
    component="supervisor",
    failure="the program crashes again and again and comes no step further",
    recovery="refuse",
    expected="it is given up after as many restarts as are allowed",
)
def test_restarts_that_come_no_step_further_end_it(tmp_path: Path) -> None:
    """A new step makes the count begin anew; steps that are repeated do not."""
    tried = Tried(
        tmp_path,
        "steps(0, [5, 4, 9, 9, 7][attempt])\nos.abort()\n",
        max_restarts=2,
    )
    assert tried.run() == 128 + signal.SIGABRT
    assert sorted(p.name for p in tmp_path.glob("began-*")) == [
        f"began-{n}" for n in range(5)
    ]
    assert tried.events()[-1]["kind"] == "gave_up"
    assert "2 restarts in a row came no step further" in tried.said[-1]


def test_one_that_is_not_supervised_ends_as_it_would_alone(tmp_path: Path) -> None:
    tried = Tried(tmp_path, "os.kill(os.getpid(), signal.SIGSEGV)\n", OFF)
    assert tried.run() == 128 + signal.SIGSEGV
    assert not tried.said and not (tmp_path / "began-1").exists()


@pytest.mark.covers("DST-19: node failure")
def test_what_happens_on_another_machine_ends_the_processes_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would wait for its ranks for ever."""
    monkeypatch.setattr(processes, "FAILED_SECONDS", 0.1)
    tried = Tried(tmp_path, "steps(0, 8)\ntime.sleep(999)\n", OFF)
    supervisor = Supervisor(
        tried.supervisor._command,
        lambda: [{}, {"RANK": "1"}],
        Settings(OFF),
        tried.said.append,
        alone=False,
        elsewhere=lambda: "machine 1 ended with exit code 1",
    )
    assert supervisor.run() == 1
    (said,) = tried.said
    assert said.startswith("machine 1 ended with exit code 1; ")


SEVERAL = """
several = os.environ.get("WORLD_SIZE") == "2"
if several and os.environ["RANK"] == "1":
    steps(0, {step})
    raise SystemExit({code})
if several:
    time.sleep(999)
(here / "alone").touch()
"""


@pytest.mark.covers("DST-01: early failure falls to one GPU unless --strict")
@pytest.mark.parametrize(
    ("step", "code", "may_be_one", "falls_back"),
    [
        (0, 1, True, True),
        (1, 1, True, True),  # the first step had begun, and no other
        (3, 1, True, False),  # steps were trained
        (0, 2, True, False),  # the command is wrong
        (0, 1, False, False),  # --strict
    ],
)
def test_several_that_fail_before_their_first_step_become_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    code: int,
    may_be_one: bool,
    falls_back: bool,
) -> None:
    monkeypatch.setattr(processes, "FAILED_SECONDS", 0.1)
    tried = Tried(tmp_path, SEVERAL.format(step=step, code=code), OFF)
    ranks = [{"WORLD_SIZE": "2", "RANK": str(rank)} for rank in range(2)]
    supervisor = Supervisor(
        tried.supervisor._command,
        lambda: ranks,
        Settings(OFF),
        tried.said.append,
        alone=False,
        may_be_one=may_be_one,
    )
    assert supervisor.run() == (0 if falls_back else code)
    assert (tmp_path / "alone").exists() is falls_back
    if not falls_back:
        return
    (event,) = tried.events()
    assert event["kind"] == "fell_back_to_one_process"
    assert event["message"] in tried.said and "--strict" in event["message"]
    began = json.loads((tmp_path / "began-1").read_text())
    assert "rank 1 failed" in began["cause"] and began["one_process"]


def test_when_one_process_may_train_in_place_of_several() -> None:
    def may_be(**leaves: object) -> bool:
        return launch._may_be_one(Config(**leaves))

    assert may_be(nproc=4) and may_be(cuda_ids=[3, 1])
    for leaves in ({"nproc": 4, "strict": True}, {}, {"num_nodes": 2}):
        assert not may_be(**leaves), leaves


def test_one_in_place_of_several_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever spelling the number of processes was asked for with."""
    heartbeat.write(tmp_path / "restart.json", {"one_process": True, "number": 1})
    monkeypatch.setenv(heartbeat.FOLDER, str(tmp_path))
    try:
        heartbeat.begin()
        for leaves, ids in (({"num_gpus": 4}, ()), ({"cuda_ids": [3, 1]}, (3,))):
            system = restarted(Config(**leaves)).system
            assert (system.processes, system.cuda_ids) == (1, ids)
    finally:
        heartbeat.end()


@pytest.mark.parametrize(
    ("word", "code", "again"),
    [
        ({"code": "E204", "message": "no room"}, 1, False),
        ({"code": "E301", "message": "no finite gradient"}, 1, False),
        ({"code": "E002", "message": "a wrong option"}, 2, False),
        ({"code": "E201", "message": "no room on the GPU"}, 1, True),
        ({"code": None, "type": "RuntimeError", "message": "CUDA error"}, 1, True),
    ],
    ids=lambda value: value["code"] or "CUDA" if isinstance(value, dict) else None,
)
def test_only_what_may_pass_is_started_again(tmp_path: Path, word, code, again) -> None:
    tried = Tried(
        tmp_path,
        f"word, code = {word!r}, {code}\n"
        "if attempt: sys.exit(0)\nheartbeat.leave('failure', word)\nsys.exit(code)\n",
    )
    assert tried.run() == (0 if again else code)
    assert (tmp_path / "began-1").exists() == again


@mechanism(
    "the same error again",
    component="supervisor",
    failure="the program ends twice with one error at one step",
    recovery="refuse",
    expected="it is not started a third time",
)
def test_the_same_error_at_the_same_step_is_not_tried_a_third_time(
    tmp_path: Path,
) -> None:
    tried = Tried(
        tmp_path,
        "steps(0, 4)\n"
        "heartbeat.leave('failure', {'type': 'ValueError', 'message': 'a defect'})\n"
        "sys.exit(1)\n",
        max_restarts=9,
    )
    assert tried.run() == 1
    assert not (tmp_path / "began-2").exists()
    assert "the same error came again" in tried.said[-1]


@mechanism(
    "hung process",
    component="supervisor",
    failure="a single process gives no sign of life in a step",
    recovery="restart",
    expected="its stack is recorded; it is ended and started again",
    case="stuck",
)
@pytest.mark.parametrize(
    ("hang", "words"),
    [
        pytest.param(
            "hung()\nos.kill(os.getpid(), signal.SIGSTOP)",
            "stopped by SIGSTOP",
            marks=pytest.mark.faults,
        ),
        (
            "def stuck():\n    hung()\n    time.sleep(99)\nstuck()",
            "hangs (step): no sign of life",
        ),
    ],
    ids=["stopped", "stuck"],
)
def test_a_hang_is_named_with_its_stack_then_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hang: str, words: str
) -> None:
    mark = tmp_path / "hung"

    def hangs() -> bool:
        text = mark.read_text() if mark.exists() else ""
        if not text.endswith("."):
            return False
        try:
            stopped = psutil.Process(int(text[:-1])).status() == psutil.STATUS_STOPPED
        except psutil.NoSuchProcess:  # ended by now
            return True
        return stopped or "SIGSTOP" not in words

    begun = time.monotonic()
    # Until then no time passes: a busy machine does not make a step hang before.
    clock = stand_in(time, monotonic=lambda: time.monotonic() if hangs() else begun)
    monkeypatch.setattr("lumina.cli.supervisor.supervisor.time", clock)
    told = "def hung(): (here / 'hung').write_text(f'{os.getpid()}.')\n"
    program = f"{told}if attempt: sys.exit(0)\nsteps(0, 9)\n{hang}\n"
    tried = Tried(tmp_path, program, hang_timeout=0.3)
    assert tried.run() == 0
    suspected, ended = tried.events()
    assert suspected["kind"] == "hang_suspected" and words in suspected["message"]
    assert ended["kind"] == "process_ended" and words in ended["message"]
    # One that is stopped can only write its stack once it goes on.
    stack = ended["data"]["stack"]
    assert "program.py" in stack and ("stuck" in stack or "SIGSTOP" in words)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.faults),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.faults),
    ],
)
def test_signals_reach_the_program_and_nothing_is_started_again(
    tmp_path: Path, number: int, code: int
) -> None:
    tried = Tried(
        tmp_path,
        "heard = []\n"
        "def hear(number, frame):\n"
        "    heard.append(number)\n"
        "    (here / f'heard-{number}').touch()\n"
        "for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):\n"
        "    signal.signal(n, hear)\n"
        "(here / 'ready').touch()\n"
        "while not heard or heard[-1] == signal.SIGUSR1: time.sleep(0.005)\n"
        "sys.exit(128 + heard[-1])\n",
    )

    def send() -> None:
        wait_until((tmp_path / "ready").exists)
        os.kill(os.getpid(), signal.SIGUSR1)
        wait_until((tmp_path / f"heard-{signal.SIGUSR1}").exists)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    threading.Thread(target=send, daemon=True).start()
    assert tried.run() == code
    assert signal.getsignal(number) == before
    assert not (tmp_path / "began-1").exists() and not tried.said


@mechanism(
    "signal between two lives",
    component="supervisor",
    failure="a signal while the supervisor waits before a restart",
    recovery="end at once",
    expected="it ends, and nothing is started",
)
def test_a_signal_ends_the_wait_before_a_restart(tmp_path: Path) -> None:
    tried = Tried(tmp_path, "os.abort()\n", restart_delay=60.0)

    def send() -> None:
        wait_until(lambda: any("is started again" in line for line in tried.said))
        wait_until(lambda: state_of(tmp_path / "run") == "restarting")
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=send, daemon=True).start()
    assert tried.run() == 143
    assert "the last checkpoint stands" in tried.said[-1]
    assert state_of(tmp_path / "run") == "unknown", "nobody will start it again"


def test_a_supervisor_does_without_torch() -> None:
    """It waits for days beside a training, which needs the memory."""
    loaded = "import sys, lumina.cli.supervisor.launch; print('torch' in sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", loaded], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "False"
