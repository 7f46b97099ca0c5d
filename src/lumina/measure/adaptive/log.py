"""What a run writes while it goes on, a line for each event, whatever becomes of it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any


class Log:
    """Lines in a file: of steps, evaluations and faults. A killed process loses none.

    Args:
        path: of the file; a run that is resumed adds to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Add a line: "step" is computed, "eval" has a loss, "fault" has happened."""
        line = {"kind": kind, "step": step, "at": round(time.time(), 4), **values}
        os.write(self._file, (json.dumps(line) + "\n").encode())

    def happened(self, fault: int) -> int:
        """How often the fault of this number has happened, in all attempts."""
        return sum(
            line["kind"] == "fault" and line.get("number") == fault
            for line in read_log(self.path)
        )


def read_log(path: Path) -> list[dict[str, Any]]:
    """Every whole line; none where there is no file."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    return [
        json.loads(line)
        for line in text.splitlines(keepends=True)
        if line.endswith("\n")
    ]
