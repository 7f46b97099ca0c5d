"""A supervisor in a session of its own: Ctrl-C, Ctrl-Z, and its own death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mechanisms import mechanism
from supervised_programs import HEAD
from training import PATIENCE, wait_until

TYPED = """
import sys
from lumina.cli.supervisor.choice import Choice
from lumina.cli.supervisor.supervisor import Settings, Supervisor
settings = Settings(Choice(True, ""), restart_delay=float(sys.argv[2]))
command = [sys.executable, sys.argv[1]]
def say(line):
    print(line, flush=True)
sys.exit(Supervisor(command, lambda: [{}], settings, say, alone=True).run())
"""


def typed(tmp_path: Path, program: str, delay: float = 0.0) -> subprocess.Popen[str]:
    """A supervisor in a session of its own, as in a terminal."""
    (tmp_path / "program.py").write_text(HEAD.format(folder=str(tmp_path)) + program)
    (tmp_path / "run").mkdir()
    words = ["-c", TYPED, str(tmp_path / "program.py"), str(delay)]
    return subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@mechanism(
    "second Ctrl-C under the supervisor",
    component="supervisor",
    failure="Ctrl-C twice of the whole session, while the training saves for ever",
    recovery="end at once",
    expected="the training hears each of them once; the second ends it with code 130",
)
@pytest.mark.faults
def test_a_second_ctrl_c_reaches_the_program_and_ends_all(tmp_path: Path) -> None:
    """Each is heard once, though the terminal sends it to every process it knows."""
    process = typed(
        tmp_path,
        "heard = []\n"
        "def hear(number, frame):\n"
        "    heard.append(number)\n"
        "    (here / f'heard-{len(heard)}').touch()\n"
        "    if len(heard) > 1: os._exit(130)\n"
        "signal.signal(signal.SIGINT, hear)\n"
        "(here / 'ready').touch()\n"
        "while True: time.sleep(0.01)\n",
    )
    try:
        assert wait_until((tmp_path / "ready").exists)
        os.killpg(process.pid, signal.SIGINT)
        assert wait_until((tmp_path / "heard-1").exists)
        assert process.poll() is None and not (tmp_path / "heard-2").exists()
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        assert (tmp_path / "heard-2").exists()
        assert not (tmp_path / "began-1").exists()
        assert (
            process.stdout is not None and "started again" not in process.stdout.read()
        )
    finally:
        process.kill()


@mechanism(
    "Ctrl-C between two lives",
    component="supervisor",
    failure="Ctrl-C of the whole session while the supervisor waits before a restart",
    recovery="end at once",
    expected="code 130 and one line, no traceback, and nothing is started",
)
@pytest.mark.faults
def test_ctrl_c_ends_the_wait_before_a_restart(tmp_path: Path) -> None:
    process = typed(tmp_path, "os.abort()\n", delay=200.0)
    try:
        assert process.stdout is not None
        assert "is started again in" in process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        said = process.stdout.read()
        assert "ended by SIGINT before the restart" in said and "Traceback" not in said
        assert not (tmp_path / "began-1").exists()
    finally:
        process.kill()


SUPERVISES = """
import sys
from lumina.cli.supervisor.choice import Choice
from lumina.cli.supervisor.supervisor import Settings, Supervisor
sleeps = "import os, time; print(os.getpid(), flush=True); time.sleep(99)"
settings = Settings(Choice(True, ""))
command = [sys.executable, "-c", sleeps]
supervisor = Supervisor(command, lambda: [{}], settings, print, alone=True)
sys.exit(supervisor.run())
"""


@mechanism(
    "killed supervisor",
    component="supervisor",
    failure="SIGKILL of the supervisor",
    recovery="end all ranks",
    expected="the training does not outlive it",
)
@pytest.mark.faults
def test_the_program_ends_with_a_killed_supervisor() -> None:
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISES], stdout=subprocess.PIPE
    )
    assert supervisor.stdout is not None
    child = Path("/proc", supervisor.stdout.readline().decode().strip(), "stat")
    assert child.exists()
    supervisor.kill()
    supervisor.wait()

    def gone() -> bool:
        try:
            return child.read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    assert wait_until(gone)


@mechanism(
    "Ctrl-Z of the supervisor",
    component="supervisor",
    failure="the supervisor is stopped (SIGTSTP) for longer than a hang takes",
    recovery="go on",
    expected="the training stops with it, and that counts for no hang",
)
@pytest.mark.faults
def test_ctrl_z_holds_the_program_too(tmp_path: Path) -> None:
    """What stops the supervisor stops the program, and it does not count as a hang."""
    script = tmp_path / "supervises.py"
    script.write_text(SUPERVISES)
    supervisor = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, start_new_session=True
    )
    assert supervisor.stdout is not None
    child = Path("/proc", supervisor.stdout.readline().decode().strip(), "stat")

    def state(path: Path) -> str:
        return path.read_text().rpartition(")")[2].split()[0]

    own = Path("/proc", str(supervisor.pid), "stat")
    supervisor.send_signal(signal.SIGTSTP)
    assert wait_until(lambda: state(own) == state(child) == "T")
    supervisor.send_signal(signal.SIGCONT)
    assert wait_until(lambda: state(child) == "S")
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait() == 143
