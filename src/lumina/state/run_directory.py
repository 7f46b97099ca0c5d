"""A run's directory: the names of its files, its lock, its beginning and its end."""

from __future__ import annotations

import errno
import os
import socket
import time
import weakref
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

from lumina.durable import write_error, write_file
from lumina.errors import LuminaError
from lumina.state import exact_json
from lumina.state.liveness import held_alone, is_locked
from lumina.state.retention import remove_leftovers

RunStatus = Literal["running", "finished", "interrupted", "failed"]

_LOCK_NAME = ".lock"
_OPEN_LOCKS: weakref.WeakSet[RunDirectory] = weakref.WeakSet()


class RunDirectory:
    """Everything a run leaves behind. Holds no absolute path: copy or move it freely.

    Only the process that trains (rank 0) acquires it; anybody may read its names.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.cleared: list[str] = []
        self._lock: int | None = None

    @staticmethod
    def new(preset: str, base: str | os.PathLike[str] = "runs") -> RunDirectory:
        """Make an empty directory BASE/PRESET-DATE-TIME for this run alone.

        Raises:
            LuminaError: E104 or E106 when it cannot be made, E204 without room.
        """
        stem = f"{preset}-{time.strftime('%Y%m%d-%H%M%S')}"
        number = 1
        while True:
            path = Path(base) / (stem if number == 1 else f"{stem}-{number}")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.mkdir()
                return RunDirectory(path)
            except FileExistsError as error:
                if not path.is_dir():
                    raise write_error(error, path) from error
                number += 1
            except OSError as error:
                raise write_error(error, path) from error

    @property
    def config(self) -> Path:
        """config.yaml: the settings, with provenance."""
        return self.path / "config.yaml"

    @property
    def plan(self) -> Path:
        """plan.json: what was decided, and why."""
        return self.path / "plan.json"

    @property
    def metrics(self) -> Path:
        """metrics.jsonl: one row a step."""
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """events.jsonl: what happened."""
        return self.path / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints, LATEST and BEST."""
        return self.path / "checkpoints"

    @property
    def tokenizer(self) -> Path:
        """The folder of the run's tokenizer."""
        return self.path / "tokenizer"

    @property
    def report(self) -> Path:
        """report.html."""
        return self.path / "report.html"

    @property
    def samples(self) -> Path:
        """samples.jsonl: texts that the model wrote, by step."""
        return self.path / "samples.jsonl"

    @property
    def safety_report(self) -> Path:
        """safety_report.json: what was measured of those texts."""
        return self.path / "safety_report.json"

    @property
    def results(self) -> Path:
        """results.json: further figures by name, such as scores."""
        return self.path / "results.json"

    @property
    def earlier_runs(self) -> Path:
        """earlier_runs.json: the latest runs like it, when it ended."""
        return self.path / "earlier_runs.json"

    @property
    def status_file(self) -> Path:
        """status.json: how far it came, and whether it is finished."""
        return self.path / "status.json"

    @property
    def is_run(self) -> bool:
        """Whether a run has begun here."""
        begun = (self.config, self.metrics, self.events, self.checkpoints)
        return any(path.exists() for path in begun)

    def acquire(self, *, resume: bool = False) -> RunDirectory:
        """Make the directory, or go on in it, and hold its lock until `close`.

        What a killed process left half written is removed (`cleared` lists it).

        Args:
            resume: an existing run is wanted, or at least welcome.

        Raises:
            LuminaError: E103 when the path is not valid UTF-8; E002 when a run is
                here already and `resume` is not set, when
                something else is here, or when another process writes to it; E104 when
                the path is a file; E106 without permission; E204 without room.
        """
        self._refuse_unwritable_name()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._refuse_unwanted(resume)
            self._take_lock()
        except OSError as error:
            raise write_error(error, self.path) from error
        try:
            # Again, now that no other run can begin here.
            self._refuse_unwanted(resume)
            self.cleared = remove_leftovers(self.checkpoints)
        except OSError as error:
            self.close()
            raise write_error(error, self.path) from error
        except LuminaError:
            self.close()
            raise
        return self

    def check(self, *, resume: bool = False) -> None:
        """Refuse what `acquire` would refuse, and change nothing.

        Args:
            resume: as for `acquire`.

        Raises:
            LuminaError: as `acquire`.
        """
        self._refuse_unwritable_name()
        there = self.path
        while not there.exists() and there != there.parent:
            there = there.parent
        if not there.is_dir():
            wrong = errno.EEXIST if there == self.path else errno.ENOTDIR
            error = OSError(wrong, os.strerror(wrong))
            raise write_error(error, self.path)
        if not os.access(there, os.W_OK | os.X_OK):
            error = OSError(errno.EACCES, os.strerror(errno.EACCES))
            raise write_error(error, self.path)
        if there != self.path:
            return
        self._refuse_unwanted(resume)
        if (self.path / _LOCK_NAME).exists():
            lock = os.open(self.path / _LOCK_NAME, os.O_RDONLY)
            try:
                if is_locked(self.path):
                    self._refuse_held(lock)
            finally:
                os.close(lock)

    def close(self) -> None:
        """Give up the lock; harmless when it is not held."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
            _OPEN_LOCKS.discard(self)

    def mark(self, status: RunStatus, step: int, **data: Any) -> None:
        """Write status.json, durably and as a whole."""
        if status not in get_args(RunStatus):
            raise ValueError(f"unknown status {status!r}")
        values = {"version": 1, "status": status, "step": step, "time": time.time()}
        text = exact_json.dumps(values | {"data": data}, indent=1) + "\n"
        try:
            write_file(self.status_file, text.encode())
        except OSError as error:
            raise write_error(error, self.status_file) from error

    def status(self) -> dict[str, Any] | None:
        """What `mark` wrote last; None when it never did, or it cannot be read."""
        try:
            values = exact_json.loads(self.status_file.read_bytes())
        except (OSError, ValueError):
            return None
        return values if isinstance(values, dict) else None

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        status = self.status()
        return status is not None and status.get("status") == "finished"

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"RunDirectory({str(self.path)!r})"

    def _refuse_unwritable_name(self) -> None:
        """The tensors' files can only be opened under a path that is valid UTF-8."""
        try:
            str(self.path).encode()
        except UnicodeEncodeError:
            raise LuminaError(
                "E103",
                f"the name {str(self.path)!r} of the run's directory is not valid "
                "UTF-8, and checkpoints could not be written there",
                "name another --run-dir",
            ) from None

    def _refuse_unwanted(self, resume: bool) -> None:
        if self.is_run:
            if not resume:
                raise LuminaError(
                    "E002",
                    f"there is a run in {self.path} already",
                    "add --auto-resume to go on with it, or name another --run-dir",
                )
        elif any(not _is_remnant(entry.name) for entry in self.path.iterdir()):
            raise LuminaError(
                "E002",
                f"{self.path} is neither empty nor a run",
                "name another --run-dir",
            )

    def _refuse_held(self, lock: int) -> NoReturn:
        """Name the process that holds the open lock file."""
        holder = os.pread(lock, 200, 0).decode(errors="replace").strip()
        raise LuminaError(
            "E002",
            f"another process writes to {self.path}"
            + (f" ({holder})" if holder else ""),
            "wait for it or stop it, or name another --run-dir",
        )

    def _take_lock(self) -> None:
        """An OS lock: it goes with the process, however that ends."""
        lock = os.open(self.path / _LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not held_alone(lock):
                self._refuse_held(lock)
        except (OSError, LuminaError):
            os.close(lock)
            raise
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        self._lock = lock
        _OPEN_LOCKS.add(self)


def _is_remnant(name: str) -> bool:
    """Whether a run that was killed before it had begun leaves such a file."""
    return name == _LOCK_NAME or (name.startswith(".") and name.endswith(".tmp"))


def _forget_locks() -> None:
    """A forked child must not keep the lock when its parent dies."""
    for directory in list(_OPEN_LOCKS):
        directory.close()


os.register_at_fork(after_in_child=_forget_locks)
