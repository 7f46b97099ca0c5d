"""An index of the runs that were listed, so that a long list answers at once.

The folders of the runs are the truth: a row of the index holds for as long as the sizes
and times of the files that it was made from stay as they were. The index may be deleted
at any time, and one that cannot be read is made again.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lumina.cli.run_files import STAMPED, is_run, of_files
from lumina.state.liveness import state_of

_VERSION = 1
"""Of what a row holds; an index of another version is made again."""

_TABLE = (
    "CREATE TABLE IF NOT EXISTS runs "
    "(path TEXT PRIMARY KEY, stamp TEXT NOT NULL, described TEXT NOT NULL)"
)


class RunIndex:
    """What is known of runs, kept in an SQLite file.

    Args:
        file: the index; made where it is not there.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._database = self._opened()

    @staticmethod
    def of_user() -> RunIndex:
        """The one in `LUMINA_CACHE`."""
        from lumina.cache_root import cache_root

        return RunIndex(cache_root() / "runs.sqlite")

    def described(self, paths: Iterable[Path]) -> list[dict[str, Any]]:
        """What is known of runs; only those whose files have changed are read."""
        found = []
        with self._writing():
            for path in paths:
                found.append(self._of(path) | {"state": state_of(path)})
        return found

    def known(self) -> list[Path]:
        """The runs of all folders that were ever listed and that are still there."""
        there: list[Path] = []
        gone: list[Path] = []
        for (name,) in self._rows("SELECT path FROM runs ORDER BY path"):
            path = Path(name)
            (there if path.is_dir() and is_run(path) else gone).append(path)
        for path in gone:
            self.forget(path)
        return there

    def forget(self, path: Path) -> None:
        """Take a run out of the index; its folder stays as it is."""
        with self._writing():
            self._write("DELETE FROM runs WHERE path = ?", (str(path.resolve()),))

    def clear(self) -> None:
        """Forget all runs."""
        with self._writing():
            self._write("DELETE FROM runs")

    def close(self) -> None:
        """Give the file back."""
        if self._database is not None:
            self._database.close()

    def _of(self, path: Path) -> dict[str, Any]:
        place, stamp = str(path.resolve()), _stamp(path)
        query = "SELECT described FROM runs WHERE path = ? AND stamp = ?"
        for (text,) in self._rows(query, (place, stamp)):
            held: dict[str, Any] = json.loads(text)
            return held
        found = of_files(path) | {"path": place}
        values = (place, stamp, json.dumps(found))
        self._write("INSERT OR REPLACE INTO runs VALUES (?, ?, ?)", values)
        return found

    def _opened(self) -> sqlite3.Connection | None:
        for attempt in range(2):
            try:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                database = sqlite3.connect(self.file, timeout=10)
                (version,) = database.execute("PRAGMA user_version").fetchone()
                if version != _VERSION:
                    database.execute("DROP TABLE IF EXISTS runs")
                database.execute(_TABLE)
                database.execute(f"PRAGMA user_version = {_VERSION}")
                database.execute("SELECT path, stamp, described FROM runs LIMIT 1")
                database.commit()
                return database
            except sqlite3.DatabaseError as error:
                # Not a database, or a damaged one: its content is in the folders.
                if isinstance(error, sqlite3.OperationalError) or attempt:
                    self._warn(error)
                    break
                self.file.unlink(missing_ok=True)
            except OSError as error:
                self._warn(error)
                break
        return None

    def _warn(self, error: Exception) -> None:
        print(
            f"warning: the index {self.file} cannot be used ({error}); every run's "
            "files are read",
            file=sys.stderr,
        )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction; a failure leaves the index and loses nothing else."""
        yield
        if self._database is not None:
            try:
                self._database.commit()
            except sqlite3.DatabaseError as error:
                self._give_up(error)

    def _rows(self, query: str, values: tuple[str, ...] = ()) -> list[Any]:
        if self._database is None:
            return []
        try:
            return self._database.execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:
            self._give_up(error)
            return []

    def _write(self, query: str, values: tuple[str, ...] = ()) -> None:
        if self._database is None:
            return
        try:
            self._database.execute(query, values)
        except sqlite3.DatabaseError as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._database = None
        self._warn(error)


def _stamp(path: Path) -> str:
    """Sizes and times of the files that a description is made from."""
    stamps = []
    for name in STAMPED:
        try:
            found = (path / name).stat()
        except OSError:
            stamps.append("-")
        else:
            stamps.append(f"{found.st_size}:{found.st_mtime_ns}:{found.st_ino}")
    return " ".join(stamps)


@contextlib.contextmanager
def opened() -> Iterator[RunIndex]:
    """The user's index, for a `with` statement.

    Raises:
        LuminaError: E104 for a user without a home.
    """
    index = RunIndex.of_user()
    try:
        yield index
    finally:
        index.close()
