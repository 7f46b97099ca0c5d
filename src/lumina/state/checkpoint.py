"""The checkpoints of a run: saved in the background, verified, never lost."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from lumina.durable import write_error
from lumina.errors import LuminaError
from lumina.state.backup import Backup
from lumina.state.held import Held, Kind
from lumina.state.manifest import read_manifest
from lumina.state.reader import (
    CheckpointReader,
    OnEvent,
    latest_good,
    open_checkpoint,
    step_name,
)
from lumina.state.retention import (
    GOOD,
    Pruning,
    point_at_best,
    prune,
    set_aside_after,
    write_pointer,
)
from lumina.state.state import State
from lumina.state.unwritten import check_space, coded
from lumina.state.writer import Writing

__all__ = [
    "CheckpointReader",
    "CheckpointStore",
    "Kind",
    "latest_good",
    "open_checkpoint",
]


class CheckpointStore:
    """Writes and finds the checkpoints of one run.

    Every rank makes one and calls the same methods in the same order. A checkpoint is
    copied to CPU memory at once and written by a thread: into a temporary folder,
    flushed, verified by reading it back, renamed, and only then named by LATEST; older
    ones are deleted after that. A failure in the thread is raised by the next `save`
    or `wait` (an emergency save goes ahead all the same: it may be the last chance).

    A State may also wait in memory while another one is being written (`hold`). It is
    written at `write_held`, ahead of any other that is saved, and at `wait`.

    Args:
        run_dir: the run directory, the same for all ranks.
        keep: regular checkpoints that stay.
        pruning: which of them: the newest, or some of all ages.
        rank: this rank.
        world_size: all ranks.
        on_event: called like `EventLog.emit`, from either thread.
        rank_timeout: seconds that ranks wait for each other's files.
        backup: a second place that rank 0 copies checkpoints to; a failure there is an
            event, and the run goes on.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        keep: int = 3,
        rank: int = 0,
        world_size: int = 1,
        on_event: OnEvent | None = None,
        *,
        rank_timeout: float = 600.0,
        backup: Backup | None = None,
        pruning: Pruning = "newest",
    ) -> None:
        self.run_dir = Path(run_dir)
        self.folder = self.run_dir / "checkpoints"
        self.keep = keep
        self.pruning = pruning
        self.rank = rank
        self.world_size = world_size
        self._on_event = on_event
        self._timeout = rank_timeout
        self._backup = backup
        self._stop = threading.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._under_way: list[Future[None]] = []
        self._last_step: int | None = None
        self._attempts = 0
        self._failed: list[Path] = []
        self._held: Held | None = None
        self._newest_bytes = 0

    def begin(self) -> None:
        """Start the thread that writes, while the system has the memory for one."""
        self._thread.submit(int)

    def save(
        self,
        state: State,
        kind: Kind = "regular",
        background: bool = True,
        *,
        already_snapshot: bool = False,
    ) -> Path:
        """Save a State; saving a step again only adds the kind.

        Args:
            state: with the tensors this rank is to write.
            kind: "best" also moves BEST; "emergency" is kept until a newer one;
                "phase", the end of a phase of the run, is kept for good.
            background: return once the copy is made.
            already_snapshot: the tensors are the caller's copies and may be kept.

        Returns:
            The folder it will be found in.

        Raises:
            LuminaError: E204 when it does not fit the disk, E106 without permission,
                or what went wrong in the background before.
        """
        if kind not in get_args(Kind):
            raise ValueError(f"unknown kind of checkpoint {kind!r}")
        final = self.folder / step_name(state.step)
        if not self.mark(state.step, kind):
            self.wait()
            self._begin(Held.of(state, kind), already_snapshot)
        if not background:
            self.wait()
        return final

    def mark(self, step: int, kind: Kind) -> bool:
        """Add a kind to the checkpoint of a step; False where there is none."""
        if kind == "emergency":
            with contextlib.suppress(LuminaError):  # it is told, and this goes ahead
                self.write_held()
            self._settle()
        elif step == self.held:
            self.write_held()
        if step != self._last_step:
            return False
        self._submit(self._add_kind, self.folder / step_name(step), kind)
        return True

    def promote(self, step: int) -> None:
        """The checkpoint of a step, if there is one, is known to be good.

        The newest such one is kept until there is another.
        """
        if self.rank == 0:
            self._submit(self._promote, self.folder / step_name(step))

    @property
    def busy(self) -> bool:
        """Whether this rank is still writing something."""
        return not all(job.done() for job in self._under_way)

    @property
    def held(self) -> int | None:
        """The step of the State that waits in memory; None: there is none."""
        return None if self._held is None else self._held.state.step

    @property
    def newest_bytes(self) -> int:
        """What the tensors of the last State that was written take, on this rank."""
        return self._newest_bytes

    def let_go(self) -> None:
        """Forget the State that waits in memory, which a better one replaces."""
        held, self._held = self._held, None
        if held is not None and self.rank == 0:
            self._emit(
                "best_overtaken",
                "info",
                None,
                f"step {held.state.step}, the best until now, is not written: the disk "
                "was busy, and a better one has come",
                held.state.step,
            )

    def hold(self, state: State, kind: Kind) -> None:
        """Let a State wait in memory until `write_held`; every rank calls it.

        A process that is killed before then has no checkpoint of it.

        Args:
            state: with the tensors this rank is to write, which it may keep.
            kind: as of `save`.
        """
        self.let_go()
        self._held = Held.of(state, kind)

    def write_held(self) -> None:
        """Begin to write the State that waits in memory, if there is one.

        Raises:
            LuminaError: as `save`.
        """
        held, self._held = self._held, None
        if held is not None:
            failures = self._settle()
            self._begin(held, already_snapshot=True)
            if failures:
                raise failures[0]

    def wait(self) -> None:
        """Return when nothing is left to write; raises what went wrong."""
        self.write_held()
        failures = self._settle()
        if failures:
            raise failures[0]

    def idle(self) -> None:
        """Return when nothing is being written; what went wrong is raised later."""
        futures.wait(self._under_way)

    def latest_good(self) -> Path | None:
        """The newest verified checkpoint; see `lumina.state.reader.latest_good`."""
        return latest_good(self.run_dir, self._on_event)

    def go_back(self, state: State) -> None:
        """Save a State in the place of what its step has; the run goes on from there.

        A process that is killed in between leaves a run that goes on from the newest
        checkpoint, or from this one.

        Args:
            state: with the tensors this rank is to write, which it may keep.

        Raises:
            LuminaError: as `save`.
        """
        self.wait()
        self._last_step = None
        there = self.folder / step_name(state.step)
        held = read_manifest(there).kinds if there.is_dir() else ()
        self.save(state, background=False, already_snapshot=True)
        for kind in held:
            self._submit(self._add_kind, there, kind)
        self.wait()
        self.rewind(state.step)
        if self.rank == 0:
            point_at_best(self.folder, state.extra["best_step"])
        self._last_step = state.step

    def rewind(self, step: int) -> None:
        """Tell that the run goes on from `step`: later checkpoints are set aside."""
        self.wait()
        self._last_step = None
        if self.rank != 0:
            return
        for path in set_aside_after(self.folder, step):
            self._emit(
                "checkpoint_abandoned",
                "info",
                None,
                f"the run goes on from step {step}; the checkpoint of a later step is "
                f"set aside as {path.name}",
                step,
                checkpoint=path.name,
            )

    def close(self, *, wait: bool = True) -> None:
        """Finish; with `wait=False` stop waiting for other ranks. Raises as `wait`."""
        if not wait:
            self._stop.set()
            if self.world_size > 1:
                self._held = None  # the others may be gone: it cannot become whole
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def _begin(self, held: Held, already_snapshot: bool) -> None:
        """Let the thread write a State; what was to be written before is written."""
        self._attempts += 1
        writing = self._prepare(held, already_snapshot)
        self._newest_bytes = writing.state.nbytes()
        self._last_step = writing.state.step
        self._submit(self._write, writing)

    def _prepare(self, held: Held, already_snapshot: bool) -> Writing:
        """Check the space, then copy the state, both before training goes on."""
        state, final = held.state, self.folder / step_name(held.state.step)
        writing = Writing(
            state=state,
            state_json=held.state_json,
            kind=held.kind,
            temporary=self.folder / f".tmp-{final.name}-{self._attempts:04d}",
            final=final,
            rank=self.rank,
            world_size=self.world_size,
            earlier=tuple(self._failed),
            timeout=self._timeout,
            stop=self._stop,
        )
        try:
            # Later on, a run directory that is gone was moved or deleted: half of one
            # in its place would hold checkpoints without the settings beside them.
            self.folder.mkdir(parents=self._attempts == 1, exist_ok=True)
            check_space(writing)
        except (LuminaError, OSError) as error:
            raise self._give_up(writing, error) from error
        if already_snapshot:
            return writing
        return replace(writing, state=state.snapshot())

    def _submit(self, job: Callable[..., None], *arguments: Any) -> None:
        self._under_way.append(self._thread.submit(job, *arguments))

    def _settle(self) -> list[LuminaError]:
        failures = []
        while self._under_way:
            try:
                self._under_way[0].result()
            except LuminaError as error:
                failures.append(error)
            self._under_way.pop(0)
        return failures

    def _write(self, writing: Writing) -> None:
        started = time.monotonic()
        try:
            writing.run()
            if self.rank == 0:
                self._point(writing.final, writing.kind)
                size = sum(
                    entry.bytes for entry in read_manifest(writing.final).files.values()
                )
                self._emit(
                    "checkpoint_saved",
                    "info",
                    None,
                    f"{writing.final.name} is written and verified ({writing.kind})",
                    writing.state.step,
                    checkpoint=writing.final.name,
                    checkpoint_kind=writing.kind,
                    bytes=size,
                    seconds=time.monotonic() - started,
                )
                self._prune(writing.state.step)
                if self._backup is not None:
                    self._backup.copy_if_due(writing.final, self._emit)
        except Exception as error:
            self._last_step = None
            raise self._give_up(writing, error) from error

    def _add_kind(self, final: Path, kind: Kind) -> None:
        """The step is on disk already, or its failure is reported already."""
        if self.rank != 0 or self._last_step is None:
            return
        try:
            manifest = read_manifest(final).with_kind(kind)
            manifest.write(final)
            self._point(final, kind)
            self._prune(manifest.step)
        except OSError as error:
            raise write_error(error, final) from error

    def _promote(self, final: Path) -> None:
        try:
            if final.is_dir():
                read_manifest(final).with_kind(GOOD).write(final)
        except OSError as error:
            raise write_error(error, final) from error

    def _point(self, final: Path, kind: str) -> None:
        write_pointer(self.folder, "LATEST", final)
        if kind == "best":
            write_pointer(self.folder, "BEST", final)

    def _prune(self, step: int) -> None:
        def kept(path: Path, error: OSError) -> None:
            self._emit(
                "checkpoint_not_removed",
                "warning",
                None,
                f"{path.name} could not be deleted ({error.strerror}): the run goes "
                "on, and the next checkpoint tries it again",
                step,
                checkpoint=path.name,
            )

        for path in prune(self.folder, self.keep, self.pruning, kept):
            self._emit(
                "checkpoint_removed",
                "info",
                None,
                f"{path.name} is deleted: newer ones take its place",
                step,
                checkpoint=path.name,
            )

    def _give_up(self, writing: Writing, error: Exception) -> LuminaError:
        """Clean up after a failure; returns what the user is to see."""
        failure = coded(error, writing)
        writing.abort(failure)
        self._failed.append(writing.temporary)
        # With the disk full the event may not fit either; the error still surfaces.
        with contextlib.suppress(LuminaError):
            self._emit(
                "checkpoint_failed",
                "error",
                failure.code,
                failure.message,
                writing.state.step,
                checkpoint=writing.final.name,
                checkpoint_kind=writing.kind,
            )
        return failure

    def _emit(self, kind: str, *arguments: Any, **data: Any) -> None:
        if self._on_event is not None:
            self._on_event(kind, *arguments, **data)
