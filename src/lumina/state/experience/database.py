"""The SQLite file of the experience store: opened with distrust, and checked.

A file that is not the store that this version writes is never changed and never read:
what it is stands in the error. See https://www.sqlite.org/security.html for what is
switched off here.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

from lumina.errors import LuminaError
from lumina.quantities import byte_size
from lumina.state.experience.records import OUTCOME, RUN

APPLICATION_ID = 0x4C756D45
"""`LumE`, in the header of the file."""

VERSION = 1
"""Of the tables, in the header of the file."""

MOST_BYTES = 128 * 2**20
"""A larger file is no store."""

WAIT_SECONDS = 5.0
"""How long another process may hold the file."""

SYNCHRONOUS = "FULL"
"""A write is on the device when it has returned (SQLite's pragma of that name)."""

_HEADER = b"SQLite format 3\x00"
_HINT = "name another file with --experience, or move this one away"


def _create(table: str, columns: dict[str, str], key: str) -> str:
    listed = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    return f"CREATE TABLE {table} ({listed}, PRIMARY KEY ({key})) WITHOUT ROWID"


_TYPES = {"time": "REAL", "confidence": "REAL", "measured": "REAL", "expected": "REAL",
          "final_loss": "REAL", "eval_loss": "REAL", "best_eval_loss": "REAL",
          **dict.fromkeys(("parameters", "steps", "planned_steps", "tokens", "number",
                           "step"), "INTEGER")}  # fmt: skip

TABLES = {
    "runs": _create("runs", {n: _TYPES.get(n, "TEXT") for n in RUN}, "id"),
    "outcomes": _create(
        "outcomes", {n: _TYPES.get(n, "TEXT") for n in OUTCOME}, "run, number"
    ),
}
"""Table -> the statement that makes it, which its file holds word for word."""

_MOST_OF_A_VALUE = 64 * 1024
_MOST_OPERATIONS = 100_000_000
_HARMLESS = (
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_TRANSACTION,
    sqlite3.SQLITE_FUNCTION,
)


@contextlib.contextmanager
def reading(path: Path, *, whole: bool = False) -> Iterator[sqlite3.Connection]:
    """A connection that can only read the store's own tables.

    Args:
        path: the file.
        whole: look for damage in all of the file first, not only in what is read.

    Raises:
        LuminaError: E104 where there is no such file; E106 where it may not be read;
            E101 for what is not a store of this version, or is damaged; E002 while
            another process holds it.
    """
    with _coded(path):
        _check_header(path)
        mode = "rw" if os.access(path, os.W_OK) else "ro"
        with contextlib.closing(_connect(path, mode)) as database:
            _check_tables(database, path)
            if whole:
                _look_for_damage(database, path)
            database.execute("PRAGMA query_only = ON")
            database.set_authorizer(_only_reads)
            yield database


@contextlib.contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """One transaction on the store, which is made where it is not there.

    Raises:
        LuminaError: as `reading`, but for a missing file; E204 without room.
    """
    with _coded(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size:
            _check_header(path)
        with contextlib.closing(_connect(path, "rwc")) as database:
            database.execute("BEGIN IMMEDIATE")
            if _is_empty(database):
                _make_tables(database)
            _check_tables(database, path)
            yield database
            database.execute("COMMIT")


def shrink(path: Path) -> None:
    """Give back the room of what was removed, and leave none of it in the file."""
    with _coded(path), contextlib.closing(_connect(path, "rw")) as database:
        # It is copied into a database that is attached for as long as that takes.
        database.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 1)
        database.execute("VACUUM")


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    database = sqlite3.connect(
        uri, uri=True, timeout=WAIT_SECONDS, isolation_level=None
    )
    # A file cannot bring functions, views or triggers of its own to life, and Python
    # leaves the loading of extensions off.
    for setting in ("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0",
                    "temp_store = MEMORY",
                    f"synchronous = {SYNCHRONOUS}"):  # fmt: skip
        database.execute(f"PRAGMA {setting}")
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MOST_OF_A_VALUE)
    database.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    left = [_MOST_OPERATIONS // 10_000]

    def too_long() -> int:
        left[0] -= 1
        return left[0] < 0

    database.set_progress_handler(too_long, 10_000)
    return database


def _check_header(path: Path) -> None:
    """Look at a file before SQLite does."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise LuminaError("E104", f"{path} is not a file", _HINT)
    if found.st_size > MOST_BYTES:
        raise _no_store(
            path, f"it has {byte_size(found.st_size)}, and a store has at most "
            f"{byte_size(MOST_BYTES)}"
        )  # fmt: skip
    with open(path, "rb") as file:
        header = file.read(100)
    if len(header) < 100 or not header.startswith(_HEADER):
        raise _no_store(path, "it is not an SQLite file")
    if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        raise _no_store(path, "it is an SQLite file of another program")
    version = int.from_bytes(header[60:64], "big")
    if version != VERSION:
        raise _no_store(
            path, f"its tables are of version {version}, and this Lumina has {VERSION}"
        )


def _is_empty(database: sqlite3.Connection) -> bool:
    (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (mark,) = database.execute("PRAGMA application_id").fetchone()
    return bool(tables == 0 and mark == 0)


def _make_tables(database: sqlite3.Connection) -> None:
    for statement in TABLES.values():
        database.execute(statement)
    database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    database.execute(f"PRAGMA user_version = {VERSION}")


def _check_tables(database: sqlite3.Connection, path: Path) -> None:
    """The file has the tables of this version, word for word, and nothing else."""
    found = database.execute("SELECT type, name, sql FROM sqlite_master LIMIT 10")
    held = {(str(kind), str(name)): sql for kind, name, sql in found}
    if held != {("table", name): sql for name, sql in TABLES.items()}:
        raise _no_store(path, "its tables are not those that Lumina makes")


def _look_for_damage(database: sqlite3.Connection, path: Path) -> None:
    (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise _no_store(path, f"it is damaged ({found})")


def _only_reads(action: int, *details: str | None) -> int:
    if action not in _HARMLESS:
        return sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_FUNCTION and details[1] not in ("count", "length"):
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


def _no_store(path: Path, why: str) -> LuminaError:
    return LuminaError("E101", f"{path} is no experience store: {why}", _HINT)


@contextlib.contextmanager
def _coded(path: Path) -> Iterator[None]:
    """What SQLite and the system say, as coded errors."""
    try:
        yield
    except sqlite3.OperationalError as error:
        said = str(error)
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise LuminaError(
                "E002",
                f"another process holds the experience store {path}",
                "wait for it, or name another file with --experience",
            ) from error
        if name.startswith("SQLITE_FULL"):
            raise LuminaError(
                "E204", f"no room to write {path}", "free some disk space"
            ) from error
        if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
            raise LuminaError("E106", f"{path}: {said}", _HINT) from error
        raise _no_store(path, said) from error
    except sqlite3.Error as error:
        raise _no_store(path, str(error)) from error
    except FileNotFoundError as error:
        raise LuminaError("E104", f"{path} does not exist", _HINT) from error
    except OSError as error:
        raise LuminaError("E106", f"{path}: {error.strerror}", _HINT) from error
