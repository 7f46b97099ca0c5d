"""metrics.jsonl: one row for each completed optimizer step."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lumina.state.archives import archive, archived_lines, archives, stale
from lumina.state.json_lines import (
    JsonLinesFile,
    encode_row,
    file_error,
    read_json_lines,
    rows_of,
)


class MetricsLog:
    """Writes the rows of a run.

    Rows are strict JSON (NaN and the infinities are null) and reach the operating
    system before `append` returns, so a killed process loses none. Every reader of this
    package reads the archives of a file first (`lumina.state.archives`).

    Args:
        path: the file.
        rotate_bytes: a row that would make the file larger than this begins it anew,
            and the rows before become an archive; 0: the file only grows.
    """

    def __init__(self, path: str | os.PathLike[str], rotate_bytes: int = 0) -> None:
        self.path = Path(path)
        self.rotate_bytes = rotate_bytes
        self._file = JsonLinesFile(self.path)
        for old in stale(self.path):
            old.unlink()

    def append(self, row: dict[str, Any]) -> None:
        """Write one row; it must have an integer `step`."""
        if type(row.get("step")) is not int:
            raise ValueError(f"a metrics row needs an integer step, not {row!r}")
        size = self.path.stat().st_size if self.rotate_bytes else 0
        if size and size + len(encode_row(row)) + 1 > self.rotate_bytes:
            self._rotate()
        self._file.append(row)

    def _rotate(self) -> None:
        """Make an archive of all rows."""
        try:
            archive(self.path, self.path.read_bytes())
            self._file.begin_anew()
        except OSError as error:
            raise file_error(error, self.path) from error

    def amend_last(self, row: dict[str, Any]) -> None:
        """Put a row in the place of the last one, which is of the same step."""
        rows = list(rows_of(self.path))  # the last one is never in an archive
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
        lines = archived_lines(self.path)
        lines += self.path.read_bytes().splitlines(keepends=True)
        pairs = list(zip(rows, lines, strict=True))
        kept = [line for row, line in pairs if row["step"] <= step]
        dropped = [line for row, line in pairs if row["step"] > step]
        if not dropped:
            return None
        try:
            discarded = self._unused_name()
            # The old rows are safe under their new name before they leave this file.
            _write_durably(discarded, b"".join(dropped))
            # Archived rows are put back: which of them stay is known only here.
            old = [*archives(self.path), *stale(self.path)]
            self._replace(b"".join(kept))
            for one in old:
                one.unlink(missing_ok=True)
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
