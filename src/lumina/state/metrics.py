"""metrics.jsonl: one row for each completed optimizer step."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lumina.state.json_lines import (
    JsonLinesFile,
    encode_row,
    file_error,
    read_json_lines,
)


class MetricsLog:
    """Writes the rows of a run.

    Rows are strict JSON (NaN and the infinities are null) and reach the operating
    system before `append` returns, so a killed process loses none.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = JsonLinesFile(self.path)

    def append(self, row: dict[str, Any]) -> None:
        """Write one row; it must have an integer `step`."""
        if type(row.get("step")) is not int:
            raise ValueError(f"a metrics row needs an integer step, not {row!r}")
        self._file.append(row)

    def amend_last(self, row: dict[str, Any]) -> None:
        """Put a row in the place of the last one, which is of the same step."""
        rows = read_json_lines(self.path)
        if not rows or rows[-1]["step"] != row["step"]:
            raise ValueError(f"the last row is not of step {row['step']}")
        lines = self.path.read_bytes().splitlines(keepends=True)
        lines[len(rows) - 1 :] = [encode_row(row).encode() + b"\n"]
        try:
            self._replace(b"".join(lines))
        except OSError as error:
            raise file_error(error, self.path) from error

    def truncate_after(self, step: int) -> Path | None:
        """Take away the rows past `step`, as a resume from there must.

        Returns:
            The file beside this one that now holds them (metrics.discarded-1.jsonl,
            -2, ...), or None when there were none.
        """
        rows = read_json_lines(self.path)
        lines = self.path.read_bytes().splitlines(keepends=True)
        pairs = list(zip(rows, lines, strict=True))
        kept = [line for row, line in pairs if row["step"] <= step]
        dropped = [line for row, line in pairs if row["step"] > step]
        if not dropped:
            return None
        try:
            discarded = self._unused_name()
            # The old rows are safe under their new name before they leave this file.
            _write_durably(discarded, b"".join(dropped))
            self._replace(b"".join(kept))
        except OSError as error:
            raise file_error(error, self.path) from error
        return discarded

    def close(self) -> None:
        """Give the file back; harmless when repeated."""
        self._file.close()

    def _replace(self, content: bytes) -> None:
        """Put another file in the place of this one, whole or not at all."""
        other = self.path.with_name(f".{self.path.name}.tmp")
        _write_durably(other, content)
        self._file.close()
        os.replace(other, self.path)
        self._file = JsonLinesFile(self.path)

    def _unused_name(self) -> Path:
        number = 1
        while True:
            name = f"{self.path.stem}.discarded-{number}{self.path.suffix}"
            path = self.path.with_name(name)
            if not path.exists():
                return path
            number += 1


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, or of a run directory's.

    Raises:
        LuminaError: E104 when there is none, E101 when a line but the last is broken.
    """
    path = Path(path)
    return read_json_lines(path / "metrics.jsonl" if path.is_dir() else path)


def _write_durably(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
