"""Programs that leave the signs of a training, under a supervisor."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from lumina.cli.supervisor.choice import Choice
from lumina.cli.supervisor.supervisor import Settings, Supervisor

ON, OFF = Choice(True, "asked for"), Choice(False, "switched off")

HEAD = """
import json, os, signal, sys, time
from pathlib import Path
from lumina import heartbeat
heartbeat.begin()
here = Path({folder!r})
told = heartbeat.told("restart")
heartbeat.leave("run", {{"path": str(here / "run")}})
attempt = told.get("number", 0)
(here / f"began-{{attempt}}").write_text(json.dumps(told))
def steps(first, last):
    for step in range(first, last):
        heartbeat.beat("step", step)
"""


class Tried:
    """A program under a supervisor, and what came of it."""

    def __init__(self, folder: Path, program: str, choice: Choice = ON, **more) -> None:
        run = folder / "run"
        run.mkdir(exist_ok=True)
        (run / "config.yaml").touch()  # so that it is a run, which has events
        self.folder, self.said = folder, list[str]()
        script = folder / "program.py"
        script.write_text(HEAD.format(folder=str(folder)) + program)
        more = {"restart_delay": 0.0} | more
        self.supervisor = Supervisor(
            [sys.executable, str(script)],
            lambda: [{}],
            Settings(choice, **more),
            self.said.append,
            alone=True,
        )

    def run(self) -> int:
        return self.supervisor.run()

    def events(self) -> list[dict]:
        lines = (self.folder / "run" / "events.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]
