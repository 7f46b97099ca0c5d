"""events.jsonl: what happened in a run, why, and what was done about it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Literal, get_args

from lumina.errors import CODES
from lumina.state.json_lines import JsonLinesFile, read_json_lines

Severity = Literal["debug", "info", "warning", "error", "critical"]

EVENT_VERSION = 1


class EventLog:
    """Writes events; may be called from any thread."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = JsonLinesFile(self.path)

    def emit(
        self,
        kind: str,
        severity: Severity = "info",
        code: str | None = None,
        message: str = "",
        step: int | None = None,
        **data: Any,
    ) -> dict[str, Any]:
        """Append one event and return it.

        Args:
            kind: what sort of event, in snake_case (checkpoint_saved).
            severity: how much it matters.
            code: a code of `lumina.errors`, where one applies.
            message: a sentence for a person.
            step: completed optimizer steps, where that is known.
            data: the figures and names that a program needs.
        """
        if severity not in get_args(Severity):
            raise ValueError(f"unknown severity {severity!r}")
        if code is not None and code not in CODES:
            raise ValueError(f"unknown error code {code!r}")
        event = {
            "version": EVENT_VERSION,
            "time": time.time(),
            "step": step,
            "kind": kind,
            "severity": severity,
            "code": code,
            "message": message,
            "data": data,
        }
        self._file.append(event)
        return event

    def close(self) -> None:
        """Give the file back; harmless when repeated."""
        self._file.close()


def read_events(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The events of an events.jsonl, or of a run directory's.

    Raises:
        LuminaError: E104 when there is none, E101 when a line but the last is broken.
    """
    path = Path(path)
    return read_json_lines(path / "events.jsonl" if path.is_dir() else path)
