"""A log file of a run, through Python's logging: progress, events and warnings.

Everything goes through the logger "lumina", whose handlers a program may change. The
file is begun anew when it has grown to its limit; what it held is compressed.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import logging
import os
import shutil
import time
import warnings
from collections.abc import Mapping
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, TextIO

from lumina.state.json_lines import encode_row, file_error

LOGGER = logging.getLogger("lumina")

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
"""Severity of an event -> level of logging."""


def told(severity: object, level: str) -> bool:
    """Whether an event is reported at a level such as "WARNING"."""
    return LEVELS.get(str(severity).lower(), logging.INFO) >= level_number(level)


class _Text(logging.Formatter):
    """A time, a level, and a sentence."""

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__(
            "%(asctime)sZ %(levelname)-8s %(message)s", "%Y-%m-%dT%H:%M:%S"
        )

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the message holds."""
        return super().format(record).replace("\n", " ")


class _Json(logging.Formatter):
    """A JSON object with time, level, message and what else is known."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        found = {
            "time": record.created,
            "level": record.levelname,
            "message": record.getMessage(),
        }
        return encode_row(found | getattr(record, "facts", {}))


class _File(RotatingFileHandler):
    """Compresses what it rotates; a disk that is full ends the log and not the run."""

    problem: Exception | None = None

    def handleError(self, record: logging.LogRecord) -> None:
        """Keep the first failure, and write no more."""
        import sys

        error = sys.exc_info()[1]
        if self.problem is None and isinstance(error, Exception):
            self.problem = error

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, unless one has failed."""
        if self.problem is None:
            super().emit(record)


def refuse_unwritable(path: Path) -> None:
    """Refuse a file that cannot be a log, and change nothing.

    Raises:
        LuminaError: E106 or E104.
    """
    there, wrong = path, None
    try:
        while not there.exists() and there != there.parent:
            there = there.parent
        if there == path and path.is_dir():
            wrong = errno.EISDIR
        elif there != path and not there.is_dir():
            wrong = errno.ENOTDIR
        elif not os.access(there, os.W_OK if there == path else os.W_OK | os.X_OK):
            wrong = errno.EACCES
    except OSError as error:
        raise file_error(error, path) from error
    if wrong is not None:
        raise file_error(OSError(wrong, os.strerror(wrong)), path)


class RunLog:
    """The log file of a run, from its opening to `close`.

    Args:
        path: the file; lines are appended.
        level: "DEBUG", "INFO", "WARNING" or "ERROR".
        form: "text" or "json".
        rotate_bytes: size after which the file starts over.
        keep: compressed files that are kept: PATH.1.gz is the newest.
        every: steps between lines of progress.

    Raises:
        LuminaError: E106 or E104 for a file that cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        level: str = "INFO",
        form: str = "text",
        rotate_bytes: int = 0,
        keep: int = 5,
        every: int = 10,
    ) -> None:
        self.path = Path(path)
        self.level = level
        self.every = every
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._handler = _File(
                self.path, maxBytes=rotate_bytes, backupCount=keep, encoding="utf-8"
            )
        except OSError as error:
            raise file_error(error, self.path) from error
        self._handler.namer = lambda name: f"{name}.gz"
        self._handler.rotator = _compress
        self._handler.setFormatter(_Json() if form == "json" else _Text())
        self._handler.setLevel(level)
        self._before = LOGGER.level
        LOGGER.setLevel(min(level_number(level), self._before or logging.CRITICAL))
        LOGGER.addHandler(self._handler)
        self._show = warnings.showwarning
        warnings.showwarning = self._warning

    @property
    def problem(self) -> str:
        """Why nothing more is written; "" where all is well."""
        error = self._handler.problem
        return "" if error is None else f"{type(error).__name__}: {error}"

    def event(self, event: Mapping[str, Any]) -> None:
        """An entry of events.jsonl."""
        step, code = event.get("step"), event.get("code")
        where = f"step {step}: " if step is not None else ""
        code = f"{code} " if code else ""
        facts = {key: event.get(key) for key in ("step", "kind", "code", "data")}
        self._write(
            LEVELS.get(str(event.get("severity")), logging.INFO),
            f"{where}{code}{event.get('message') or event.get('kind')}",
            facts,
        )

    def row(self, row: Mapping[str, Any]) -> None:
        """A row of metrics.jsonl: a line every few steps, at DEBUG for each."""
        due = row["step"] == 1 or row["step"] % self.every == 0 or "eval_loss" in row
        shown = ("loss", "eval_loss", "grad_norm", "learning_rate", "tokens_per_second")
        known = {key: row[key] for key in shown if row.get(key) is not None}
        text = "  ".join(f"{key} {value:.6g}" for key, value in known.items())
        self._write(
            logging.INFO if due else logging.DEBUG,
            f"step {row['step']}: {text}",
            {"step": row["step"], "kind": "progress", "data": known},
        )

    def close(self) -> None:
        """Give the file, the logger and Python's warnings back."""
        if warnings.showwarning == self._warning:
            warnings.showwarning = self._show
        LOGGER.removeHandler(self._handler)
        LOGGER.setLevel(self._before)
        # Lines that a full disk has no room for are tried again here.
        with contextlib.suppress(OSError):
            self._handler.close()

    def _write(self, level: int, text: str, facts: Mapping[str, Any]) -> None:
        LOGGER.log(level, "%s", text, extra={"facts": facts})

    def _warning(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        """A warning of Python's, which is shown as ever too."""
        text = f"{category.__name__}: {message} ({filename}:{lineno})"
        self._write(logging.WARNING, text, {"kind": "python_warning"})
        self._show(message, category, filename, lineno, file, line)


def level_number(level: str) -> int:
    """Of a name such as "INFO"."""
    return int(logging.getLevelNamesMapping()[level])


def _compress(source: str, target: str) -> None:
    """Move a file that is full into a compressed one, whole or not at all."""
    unfinished = f"{target}.tmp"
    with open(source, "rb") as file, gzip.open(unfinished, "wb") as packed:
        shutil.copyfileobj(file, packed)
    os.replace(unfinished, target)
    os.remove(source)
