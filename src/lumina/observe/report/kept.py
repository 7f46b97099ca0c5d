"""The checkpoints that the run kept, and the latest of its events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from lumina import quantities as q
from lumina.errors import LuminaError
from lumina.observe.report.record import Event
from lumina.state.manifest import read_manifest
from lumina.state.reader import read_pointer, step_folders


def checkpoints(folder: Path) -> list[tuple[str, str, str, str]]:
    """(name, kinds, bytes, remark) of each."""
    named = {name: read_pointer(folder, name) for name in ("LATEST", "BEST")}
    rows = []
    for _, path in step_folders(folder):
        marks = [name for name, target in named.items() if target == path]
        try:
            manifest = read_manifest(path)
        except LuminaError as error:
            rows.append((path.name, q.UNKNOWN, q.UNKNOWN, error.message))
            continue
        total = sum(entry.bytes for entry in manifest.files.values())
        rows.append(
            (path.name, ", ".join(manifest.kinds), q.byte_size(total), " ".join(marks))
        )
    return rows


def shown_events(
    events: Sequence[Event], most: int, longest: int
) -> tuple[list[dict[str, str]], int]:
    """The latest events, and how many earlier ones were left out.

    Warnings and errors are kept before others.
    """
    told = [event for event in events if event.get("severity") != "debug"]
    grave = [n for n, event in enumerate(told) if _level(event) != "info"][-most:]
    calm = [n for n, event in enumerate(told) if _level(event) == "info"]
    room = most - len(grave)
    kept = sorted({*grave, *(calm[-room:] if room else ())})
    return [_event(told[n], longest) for n in kept], len(told) - len(kept)


def _level(event: Mapping[str, Any]) -> str:
    severity = str(event.get("severity", "info"))
    return severity if severity in ("warning", "error", "critical") else "info"


def _event(event: Mapping[str, Any], longest: int) -> dict[str, str]:
    moment = q.known(event.get("time"))
    step = event.get("step")
    return {
        "time": datetime.fromtimestamp(moment).strftime("%m-%d %H:%M:%S")
        if moment is not None
        else q.UNKNOWN,
        "step": f"{step:,}" if isinstance(step, int) else q.UNKNOWN,
        "kind": str(event.get("kind", "")).replace("_", " "),
        "severity": str(event.get("severity", "info")),
        "level": _level(event),
        "code": str(event.get("code") or ""),
        "message": shortened(str(event.get("message", "")), longest),
    }


def shortened(text: str, longest: int) -> str:
    """A text, cut where it is longer."""
    return text if len(text) <= longest else text[: longest - 1] + "…"
