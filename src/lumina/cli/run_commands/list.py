"""`lumina runs list`: every run below a folder, how far it came, in what state it is.

Reads the files of a run directory by their names: the classes that write them need
torch, and a list should answer at once.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
from pathlib import Path
from typing import Any

from lumina.cli.text import table
from lumina.errors import LuminaError

SUMMARY = "list the runs below a folder: how far they came, in what state they are"

_HEAD = ("run", "preset", "step", "loss", "eval", "checkpoint", "state")
_TAIL_BYTES = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("folder", nargs="?", default="runs", help="default: ./runs")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the runs, the latest last."""
    folder = Path(args.folder)
    if not folder.is_dir():
        if args.folder == "runs":
            print("no runs here yet; `lumina train` makes ./runs")
            return 0
        raise LuminaError("E104", f"{folder} is not a folder", "check the path")
    runs = [describe(path) for path in find_runs(folder)]
    if args.json:
        print(json.dumps(runs, indent=2))
    elif not runs:
        print(f"no runs in {folder}")
    else:
        rows = [[_cell(row[key]) for key in _HEAD] for row in runs]
        print(table(_HEAD, rows, right="step loss eval"))
    return 0


def find_runs(folder: Path) -> list[Path]:
    """The run directories: the folder itself, or those in it; the latest last."""
    if _is_run(folder):
        return [folder]
    found = [path for path in folder.iterdir() if path.is_dir() and _is_run(path)]
    return sorted(found, key=lambda path: (_last_written(path), path.name))


def describe(path: Path) -> dict[str, Any]:
    """What is known of a run without loading it; None where it is not known."""
    rows = _last_rows(path / "metrics.jsonl")
    last = rows[-1] if rows else {}
    evaluated = [r["eval_loss"] for r in rows if r.get("eval_loss") is not None]
    return {
        "run": path.name,
        "preset": _preset(path / "config.yaml"),
        "step": last.get("step"),
        "loss": last.get("loss"),
        "eval": evaluated[-1] if evaluated else None,
        "checkpoint": _first_line(path / "checkpoints" / "LATEST"),
        "state": _state(path),
    }


def _is_run(path: Path) -> bool:
    names = ("config.yaml", "metrics.jsonl", "events.jsonl", "checkpoints")
    return any((path / name).exists() for name in names)


def _state(path: Path) -> str:
    """What the run says of itself, checked against its lock."""
    if _locked(path / ".lock"):
        return "running"
    try:
        status = json.loads((path / "status.json").read_text())["status"]
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown"
    # It says it is running, but no process holds its lock: it was killed.
    return "killed" if status == "running" else str(status)


def _locked(path: Path) -> bool:
    try:
        lock = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _preset(path: Path) -> str | None:
    """The preset of a saved configuration, from its first lines alone."""
    try:
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("preset:"):
                    name = line.partition(":")[2].strip().strip("'\"")
                    return None if name == "null" else name
    except (OSError, UnicodeDecodeError):
        pass
    return None


def _last_rows(path: Path) -> list[dict[str, Any]]:
    """The last rows of metrics.jsonl; a half-written one at the end is left out."""
    try:
        with open(path, "rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES)
            file.seek(start)
            lines = file.read().split(b"\n")
    except OSError:
        return []
    rows = []
    for line in lines[1:] if start else lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text().strip().splitlines()[0]
    except (OSError, ValueError, IndexError):
        return None


def _last_written(path: Path) -> float:
    files = [path / "metrics.jsonl", path / "config.yaml", path]
    return next((file.stat().st_mtime for file in files if file.exists()), 0.0)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
