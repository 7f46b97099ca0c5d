"""Options of the supervisor: what becomes of a program that fails, by their values."""

from __future__ import annotations

import sys
import time
from typing import Any

from lumina.cli.supervisor.choice import choose
from lumina.cli.supervisor.supervisor import Settings, Supervisor
from option_effects import shows
from stand_ins import stand_in
from tiny_runs import Runs

_FAILS = "import os; os.kill(os.getpid(), 9)"
_HANGS = """
import os, time
from lumina import heartbeat
heartbeat.begin()
for step in range(9):
    heartbeat.beat("step", step)
if not os.path.exists({mark!r}):
    open({mark!r}, "w").close()
    time.sleep(60)
"""


def _supervised(runs: Runs, program: str, **leaves: Any) -> tuple[int, list[str]]:
    """The exit code of a program under a supervisor, and what that said."""
    config = runs.config(supervise=True, **leaves)
    asked, said = config.supervisor, list[str]()
    choice = choose(config, {}, command=False)
    settings = Settings(
        choice, asked.max_restarts, asked.restart_delay, asked.hang_timeout
    )
    command = [sys.executable, "-c", program]
    supervisor = Supervisor(command, lambda: [{}], settings, said.append, alone=True)
    return supervisor.run(), said


@shows("supervise", "max_restarts", "restart_delay")
def restarts(runs: Runs) -> None:
    """How often a program that is killed is started again, and how soon."""
    for most in (0, 1):
        began = time.monotonic()
        code, said = _supervised(runs, _FAILS, max_restarts=most, restart_delay=0.2)
        assert code == 137
        assert sum("is started again" in line for line in said) == most
        assert "not started again" in said[-1]
        assert time.monotonic() - began >= 0.2 * most
    assert "supervise" in runs.refused("E002", supervise=True)
    runs.train(supervise=False, steps=1)


@shows("hang_timeout")
def hang(runs: Runs) -> None:
    """A program that leaves no signs is reported, and ended; with 0 it never is."""
    mark, begun = runs.folder / "mark", time.monotonic()
    # No time passes before it hangs, however busy the machine is.
    clock = stand_in(
        time, monotonic=lambda: time.monotonic() if mark.exists() else begun
    )
    runs.monkeypatch.setattr("lumina.cli.supervisor.supervisor.time", clock)
    program = _HANGS.format(mark=str(mark))
    code, said = _supervised(runs, program, hang_timeout=0.3, restart_delay=0.0)
    assert code == 0
    assert "hangs (step): no sign of life" in said[0]
    watched = _supervised(runs, program, hang_timeout=0.0)
    assert watched == (0, [])
