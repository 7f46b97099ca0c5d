"""Writes one checkpoint: each rank its part, rank 0 the manifest and the final name.

Ranks meet through files only. A rank that waited for a message could hang with the
others; a rank that polls for a file gives up at its deadline and says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lumina.durable import sync_folder, write_file
from lumina.errors import LuminaError
from lumina.model.tensors import TensorInfo
from lumina.state import exact_json
from lumina.state.manifest import (
    STATE_NAME,
    FileEntry,
    Manifest,
    TensorEntry,
    read_json,
    read_manifest,
    slot_key,
)
from lumina.state.reader import open_checkpoint
from lumina.state.state import State
from lumina.state.tensor_file import DTYPE_NAMES, Written, write_tensors

_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Writing:
    """One checkpoint on its way to disk.

    Attributes:
        state: what this rank writes; nothing else may change it.
        state_json: the text of state.json, the same on all ranks.
        kind: regular, best or emergency.
        temporary: the folder being written, the same path on all ranks.
        final: the name it will get.
        rank: this rank.
        world_size: all ranks.
        earlier: folders of this process's failed attempts; their notes are read by now.
        timeout: seconds to wait for the other ranks.
        stop: set to give up waiting.
    """

    state: State
    state_json: bytes
    kind: str
    temporary: Path
    final: Path
    rank: int
    world_size: int
    earlier: tuple[Path, ...]
    timeout: float
    stop: threading.Event

    def run(self) -> None:
        """Write this rank's part and see the checkpoint published."""
        self.temporary.mkdir(exist_ok=True)
        self.state.arrived()
        part = self._write_part()
        if self.rank > 0:
            self._hand_over(part)
        if self.rank == 0:
            parts = [part, *(self._await_part(r) for r in range(1, self.world_size))]
            self._publish(self._manifest(parts))
        else:
            self._await_published(part)

    def abort(self, error: LuminaError) -> None:
        """Take back what was written, and tell the other ranks why."""
        if self.world_size == 1:
            shutil.rmtree(self.temporary, ignore_errors=True)
            return
        for name in (STATE_NAME, *self._file_names()):
            if self.rank == 0 or name != STATE_NAME:
                (self.temporary / name).unlink(missing_ok=True)
        note = {"code": error.code, "message": error.message, "hint": error.hint}
        # Without the note (no room even for it) the others give up at their deadline.
        with contextlib.suppress(OSError):
            self.temporary.mkdir(exist_ok=True)
            write_file(_failure_path(self.temporary, self.rank), _dump(note))

    def _file_names(self) -> tuple[str, str]:
        tail = ""
        if self.world_size > 1:
            tail = f"-{self.rank + 1:05d}-of-{self.world_size:05d}"
        return f"model{tail}.safetensors", f"optimizer{tail}.safetensors"

    def _write_part(self) -> dict[str, Any]:
        state = self.state
        model, optimizer = self._file_names()
        files: dict[str, Written] = {}
        if self.rank == 0:
            files[STATE_NAME] = _write_bytes(
                self.temporary / STATE_NAME, self.state_json
            )
        if state.tensors:
            files[model] = write_tensors(self.temporary / model, state.tensors)
        slots = {
            slot_key(slot, name): tensor
            for slot, held in state.optimizer.items()
            for name, tensor in held.items()
        }
        if slots:
            files[optimizer] = write_tensors(self.temporary / optimizer, slots)
        return {
            "files": {n: vars(written) for n, written in files.items()},
            "tensors": _entries(state.tensors, model, state.info),
            "optimizer": {
                slot: _entries(held, optimizer, {})
                for slot, held in state.optimizer.items()
            },
        }

    def _hand_over(self, part: dict[str, Any]) -> None:
        """Tell rank 0 that this rank's files are on the device.

        The rename is the last thing done in the folder: from then on rank 0 may give
        it its final name at any moment.
        """
        path = _part_path(self.temporary, self.rank)
        unfinished = path.with_name(f".{path.name}.tmp")
        unfinished.write_bytes(_dump(part))
        sync_folder(self.temporary)
        os.replace(unfinished, path)

    def _await_part(self, rank: int) -> dict[str, Any]:
        deadline = time.monotonic() + self.timeout
        path = _part_path(self.temporary, rank)
        while not path.exists():
            self._raise_failure_of(rank)
            self._wait_until(deadline, f"rank {rank} did not write its part")
        return read_json(path)

    def _await_published(self, part: dict[str, Any]) -> None:
        deadline = time.monotonic() + self.timeout
        while self.temporary.exists():
            self._raise_failure_of(0)
            self._wait_until(deadline, "rank 0 did not publish it")
        # The final name may be an older checkpoint's: it counts if it holds our files.
        published = read_manifest(self.final).files
        ours = {name: FileEntry(**entry) for name, entry in part["files"].items()}
        if not ours.items() <= published.items():
            raise LuminaError(
                "E303",
                f"rank 0 gave up the checkpoint {self.final.name}",
                "the events of the run say why; the older checkpoints are untouched",
            )

    def _raise_failure_of(self, rank: int) -> None:
        path = _failure_path(self.temporary, rank)
        if path.exists():
            note = read_json(path)
            raise LuminaError(
                note["code"], f"rank {rank}: {note['message']}", note["hint"]
            )

    def _wait_until(self, deadline: float, complaint: str) -> None:
        if self.stop.wait(_POLL_SECONDS):
            raise LuminaError(
                "E303",
                f"the checkpoint {self.final.name} was not finished: an error ended "
                f"the run here while {complaint.replace('did not', 'had yet to', 1)}",
                "the error before this one is the cause; the older checkpoints are "
                "untouched",
            )
        if time.monotonic() > deadline:
            raise LuminaError(
                "E303",
                f"the checkpoint {self.final.name} was not finished: {complaint} "
                f"within {self.timeout:g} s",
                "look whether that process still runs and sees the same folder",
            )

    def _manifest(self, parts: list[dict[str, Any]]) -> Manifest:
        files: dict[str, FileEntry] = {}
        tensors: dict[str, TensorEntry] = {}
        optimizer: dict[str, dict[str, TensorEntry]] = {}
        for part in parts:
            for name, entry in part["files"].items():
                files[name] = FileEntry(**entry)
            _merge(tensors, part["tensors"])
            for slot, held in part["optimizer"].items():
                _merge(optimizer.setdefault(slot, {}), held)
        step, now = self.state.step, time.time()
        return Manifest(step, (self.kind,), now, files, tensors, optimizer)

    def _publish(self, manifest: Manifest) -> None:
        for rank in range(1, self.world_size):
            _part_path(self.temporary, rank).unlink()
        manifest.write(self.temporary)
        # Checked while it still has its temporary name: whatever bears a final name
        # was good when it got it.
        open_checkpoint(self.temporary, from_device=True).close()
        for path in self.earlier:
            shutil.rmtree(path, ignore_errors=True)
        aside = self.final.with_name(f".replaced-{self.final.name}")
        if self.final.exists():
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(self.final, aside)
        os.rename(self.temporary, self.final)
        sync_folder(self.final.parent)
        shutil.rmtree(aside, ignore_errors=True)


def bytes_needed(state: State, state_json: bytes) -> int:
    """At least what a checkpoint of `state` takes on disk, its JSON included."""
    count = len(state.tensors) + sum(len(held) for held in state.optimizer.values())
    return state.nbytes() + len(state_json) + 1024 * (count + 8)


def _part_path(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.json"


def _failure_path(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.failed.json"


def _dump(values: dict[str, Any]) -> bytes:
    return exact_json.dumps(values).encode()


def _write_bytes(path: Path, content: bytes) -> Written:
    write_file(path, content)
    return Written(len(content), hashlib.sha256(content).hexdigest())


def _entries(
    tensors: dict[str, Tensor], file: str, info: dict[str, TensorInfo]
) -> dict[str, dict[str, Any]]:
    return {
        name: TensorEntry(
            file, DTYPE_NAMES[tensor.dtype], tuple(tensor.shape), info.get(name)
        ).to_json()
        for name, tensor in tensors.items()
    }


def _merge(into: dict[str, TensorEntry], entries: dict[str, Any]) -> None:
    for name, entry in entries.items():
        if name in into:
            raise ValueError(f"two ranks wrote {name}")
        into[name] = TensorEntry.from_json(entry)
