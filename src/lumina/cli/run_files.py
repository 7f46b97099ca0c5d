"""What the files of a run directory say, read by their names.

The classes that write them need torch, and a list should answer at once.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lumina.durable import changing, write_error, write_file
from lumina.errors import LuminaError
from lumina.state.archives import archives
from lumina.state.liveness import state_of

TAGS_NAME = "tags.json"
"""The file of a run that holds the tags that a person gave it."""

STAMPED = (
    "config.yaml",
    "metrics.jsonl",
    "status.json",
    TAGS_NAME,
    "checkpoints/LATEST",
)
"""The files that a description of a run is made from."""

_TAIL_BYTES = 1 << 20


def find_runs(folder: Path) -> list[Path]:
    """The run directories: the folder itself, or those in it; the latest last."""
    if is_run(folder):
        return [folder]
    there = (path for path in folder.iterdir() if not path.name.startswith("."))
    found = [path for path in there if path.is_dir() and is_run(path)]
    return sorted(found, key=lambda path: (last_written(path), path.name))


def one_run(named: str, folder: str | Path = "runs") -> Path:
    """The run of a path, or of a name below a folder.

    Raises:
        LuminaError: E304 where there is none.
    """
    for path in (Path(named), Path(folder, named)):
        if path.is_dir() and is_run(path):
            return path
    raise LuminaError(
        "E304", f"there is no run {named}", "`lumina runs list FOLDER` shows them"
    )


def described(path: Path) -> dict[str, Any]:
    """What is known of a run without loading it, and the state that it is in now."""
    return of_files(path) | {"state": state_of(path)}


def of_files(path: Path) -> dict[str, Any]:
    """What the files of `STAMPED` say of a run; None where it is not known."""
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
        "tags": tags_of(path),
        "written": last_written(path),
    }


def tags_of(path: Path) -> list[str]:
    """The tags that a person gave a run, in their order; none where unreadable."""
    try:
        return _read_tags(path / TAGS_NAME)
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _read_tags(file: Path) -> list[str]:
    """The tags of a file, which may not be there."""
    try:
        tags = json.loads(file.read_text(encoding="utf-8"))["tags"]
    except FileNotFoundError:
        return []
    if not isinstance(tags, list):
        raise TypeError("its tags are no list")
    return [str(tag) for tag in tags]


def change_tags(path: Path, change: Callable[[list[str]], list[str]]) -> list[str]:
    """Replace the tags of a run by what is made of them; returns those.

    Raises:
        LuminaError: E101 where those before cannot be read, and would be lost; E104,
            E106 or E204 where the new ones cannot be written.
    """
    file = path / TAGS_NAME
    try:
        with changing(file):
            try:
                before = _read_tags(file)
            except (ValueError, KeyError, TypeError) as error:
                raise LuminaError(
                    "E101",
                    f"{file} cannot be read ({type(error).__name__}: {error})",
                    "mend the file, or delete it and the tags in it",
                ) from error
            if (tags := change(before)) != before:
                text = json.dumps({"tags": tags}, indent=1, ensure_ascii=False) + "\n"
                write_file(file, text.encode())
            return tags
    except OSError as error:
        raise write_error(error, file) from error


def is_run(path: Path) -> bool:
    """Whether a run has begun in a folder."""
    names = ("config.yaml", "metrics.jsonl", "events.jsonl", "checkpoints")
    return any((path / name).exists() for name in names)


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
        if not start and (older := archives(path)):
            lines = gzip.decompress(older[-1].read_bytes()).split(b"\n") + lines
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


def last_written(path: Path) -> float:
    """When a run last wrote a row, in Unix seconds."""
    files = [path / "metrics.jsonl", path / "config.yaml", path]
    return next((file.stat().st_mtime for file in files if file.exists()), 0.0)
