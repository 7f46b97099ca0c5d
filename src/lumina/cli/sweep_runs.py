"""The runs of a sweep, one after another, each in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from lumina.child_processes import die_with_parent
from lumina.cli.sweep_points import Point
from lumina.config import Config
from lumina.state.json_lines import read_json_lines
from lumina.state.liveness import state_of

ENDED = {129: "SIGHUP", 130: "SIGINT", 143: "SIGTERM"}
"""Exit codes of a run that a signal ended; they end the sweep."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Outcome:
    """What became of one run.

    Attributes:
        point: its values and its seed.
        status: "finished", "failed", "stopped" (before its last step) or "missing".
        error: of a failed run, in words.
        metrics: the last evaluation, or the last row where nothing is held out, with
            `best`, the best evaluation, and `seconds`.
    """

    point: Point
    status: str
    error: str
    metrics: dict[str, float]


class SweepRuns:
    """Trains the points of a sweep in a folder.

    Args:
        folder: of the sweep; a folder for each run goes there.
        base: the settings that all runs share.
        say: takes lines for a person.
    """

    def __init__(self, folder: Path, base: Config, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.base = base
        self.say = say
        self.ended = 0
        self._child: subprocess.Popen[bytes] | None = None

    def train(self, points: list[Point], metric: str) -> int:
        """Train those that are not finished yet.

        Returns:
            0, or the exit code of a signal that ended the sweep.
        """
        previous = {number: signal.signal(number, self._end) for number in _SIGNALS}
        try:
            for number, point in enumerate(points, start=1):
                where = f"[{number}/{len(points)}] {point.setting} seed={point.seed}"
                if self.is_finished(point):
                    self.say(f"{where}: finished before")
                    continue
                self.say(f"{where}: trains in {self.folder / point.name}")
                code = self._run(point)
                if self.ended or code in ENDED:
                    return self.ended or code
                self.say(f"{where}: {self._in_words(point, metric)}")
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        return 0

    def is_finished(self, point: Point) -> bool:
        """Whether its run came to its end."""
        return state_of(self.folder / point.name) == "finished"

    def outcome(self, point: Point, metric: str) -> Outcome:
        """What the files of its run say."""
        path = self.folder / point.name
        state = state_of(path)
        if state == "finished":
            return Outcome(point, state, "", _metrics(path, metric))
        if state in ("unknown", "killed") and not (path / "metrics.jsonl").exists():
            log = self._log(point)
            if not log.exists():
                return Outcome(point, "missing", "", {})
            return Outcome(point, "failed", _last_words(log), {})
        if state in ("failed", "killed", "unknown"):
            return Outcome(point, "failed", _failure(path, self._log(point)), {})
        return Outcome(point, "stopped", "", {})

    def _in_words(self, point: Point, metric: str) -> str:
        found = self.outcome(point, metric)
        if found.status == "failed":
            return f"failed: {found.error}"
        if metric in found.metrics:
            return f"{metric} {found.metrics[metric]:.4f}"
        return found.status

    def _run(self, point: Point) -> int:
        """One run in a process of its own; its words go to a file."""
        settings = self._settings(point)
        settings.parent.mkdir(parents=True, exist_ok=True)
        point.config(self.base, self.folder).save(settings)
        log = self._log(point)
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "lumina", "train"]
        command += ["--config-file", str(settings), "--auto-resume"]
        with open(log, "wb") as output:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A session of its own: the terminal's Ctrl-C reaches it through us.
                start_new_session=True,
                preexec_fn=partial(die_with_parent, os.getpid()),
            )
            if self.ended:  # the signal came in between
                self._child.send_signal(signal.SIGTERM)
            code = self._child.wait()
        self._child = None
        return code

    def _settings(self, point: Point) -> Path:
        return self.folder / "settings" / f"{point.name}.yaml"

    def _log(self, point: Point) -> Path:
        return self.folder / "logs" / f"{point.name}.log"

    def _end(self, number: int, frame: FrameType | None) -> None:
        """Pass a signal on: the run ends with a checkpoint, and the sweep with it."""
        self.ended = 128 + number
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(number)


def _metrics(path: Path, metric: str) -> dict[str, float]:
    rows = read_json_lines(path / "metrics.jsonl")
    judged = [row for row in rows if row.get(metric) is not None]
    found = {metric: judged[-1][metric]} if judged else {}
    for row in judged:
        found.setdefault("lowest", row[metric])
        found.setdefault("highest", row[metric])
        found["lowest"] = min(found["lowest"], row[metric])
        found["highest"] = max(found["highest"], row[metric])
    found["seconds"] = sum(row.get("step_seconds") or 0.0 for row in rows)
    return found


def _failure(path: Path, log: Path) -> str:
    """Why a run failed: what its own record says, or the last words of its process."""
    events: list[dict[str, Any]] = []
    if (path / "events.jsonl").is_file():
        events = read_json_lines(path / "events.jsonl")
    for event in reversed(events):
        if event.get("severity") == "error":
            code = event.get("code")
            return f"{code} {event['message']}" if code else str(event["message"])
    return _last_words(log)


def _last_words(log: Path) -> str:
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "its process was killed"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    coded = [line for line in lines if line[:1] == "E" and line[1:4].isdigit()]
    return (coded or lines or ["its process was killed"])[-1]


def record(folder: Path, content: dict[str, Any]) -> None:
    """Write what a sweep consists of, durably."""
    from lumina.durable import write_file

    text = json.dumps(content, indent=1, default=str) + os.linesep
    write_file(folder / "sweep.json", text.encode())
