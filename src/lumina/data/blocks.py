"""Data as blocks: folders of records that several programs share out among themselves.

`write_blocks` cuts documents into folders `block-000000`, `block-000001` ... of equal
numbers of records. `ChunkTracker` hands out chunks of these blocks to any number of
processes. A claim is written down before the chunk is given, under a lock that the
system drops when a process dies. So no chunk is given twice in an epoch, also where
processes are killed at any moment.

Lumina's own runs need no tracker: their ranks take disjoint rows of one sequence. This
is for programs that share data without knowing each other's number.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from lumina.data.documents import Document
from lumina.durable import changing, write_error, write_file
from lumina.errors import LuminaError

BLOCK_RECORDS = 100_000
"""Records of a block."""

CHUNK_RECORDS = 4000
"""Records that are claimed at a time: a program with less memory takes fewer."""

_META = ".block.json"
_RECORDS = "records.jsonl"


def write_blocks(
    documents: Iterable[Document], folder: Path, block_records: int = BLOCK_RECORDS
) -> int:
    """Write documents as blocks; how many blocks there are.

    A folder that was begun before goes on behind its last whole block. Where another
    process writes it, this one waits, and then goes on likewise.

    Args:
        documents: all of them, always in the same order; pieces of a text are joined.
        folder: is made.
        block_records: documents of a block.

    Raises:
        LuminaError: E002 where the folder has blocks of another size.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with changing(folder / "blocks"):
        return _write_blocks(documents, folder, block_records)


def _write_blocks(
    documents: Iterable[Document], folder: Path, block_records: int
) -> int:
    records = _records(documents)
    number = 0
    while (meta := _meta(folder, number)) is not None:
        if meta["of"] != block_records:
            raise LuminaError(
                "E002",
                f"{folder} has blocks of {meta['of']:,} records, not {block_records:,}",
                "name another folder, or the same number of records",
            )
        for _ in islice(records, meta["records"]):
            pass
        number += 1
    while lines := list(islice(records, block_records)):
        block = folder / f"block-{number:06}"
        block.mkdir(exist_ok=True)
        write_file(block / _RECORDS, "".join(lines).encode())
        found = {"records": len(lines), "of": block_records}
        write_file(block / _META, json.dumps(found).encode())
        number += 1
    return number


def _records(documents: Iterable[Document]) -> Iterator[str]:
    """A line of JSON for each document."""
    parts: list[str] = []
    for document in documents:
        if parts and not document.continues:
            yield json.dumps({"text": "".join(parts)}) + "\n"
            parts = []
        if document.messages is not None:
            yield json.dumps({"messages": list(document.messages)}) + "\n"
        else:
            parts.append(document.text or "")
    if parts:
        yield json.dumps({"text": "".join(parts)}) + "\n"


def _meta(folder: Path, number: int) -> dict[str, Any] | None:
    """What is known of a block; None: it is not there, or half written."""
    try:
        text = (folder / f"block-{number:06}" / _META).read_text()
    except FileNotFoundError:
        return None
    return dict(json.loads(text))


@dataclass(frozen=True)
class Chunk:
    """Some records of a block.

    Attributes:
        epoch: passes over all blocks before it.
        block: number of the block.
        chunk: number of the chunk in the block.
        first: its first record in the block.
        count: how many records.
    """

    epoch: int
    block: int
    chunk: int
    first: int
    count: int


class ChunkTracker:
    """Gives each chunk of the blocks of a folder to one claimant, once an epoch.

    Blocks come in order, and the chunks of each in order. Behind the last block there
    is none: then all blocks are visited, and the epoch is over. The next one begins
    with the next claim.

    What was claimed, done and counted is a journal in the folder, a line for each
    event. A line that a killed process left half written belongs to a claim that was
    never given, and does not count.

    Args:
        folder: of `write_blocks`.
        chunk_records: records of a chunk; the same in all processes.

    Raises:
        LuminaError: E002 where others claim chunks of another size.
    """

    def __init__(self, folder: Path, chunk_records: int = CHUNK_RECORDS) -> None:
        self._folder = folder
        self._journal = folder / ".claims.jsonl"
        self._size = chunk_records
        with self._open() as file:
            lines = self._lines(file)
            if not lines:
                self._append(file, {"chunk_records": chunk_records})
            elif lines[0]["chunk_records"] != chunk_records:
                raise LuminaError(
                    "E002",
                    f"chunks of {folder} have {lines[0]['chunk_records']:,} records, "
                    f"not {chunk_records:,}",
                    "use the same number in all programs, or remove "
                    f"{self._journal} to start again",
                )

    def claim(self, claimant: str, *, epochs: int | None = None) -> Chunk | None:
        """The next chunk for a claimant; None where the epochs are over.

        A claimant gets a chunk that it claimed and has not done again, before a new
        one: so what a killed process had begun is not lost when it comes back under
        its name.

        Args:
            claimant: names the process or device; no two share a name.
            epochs: passes over all blocks; None: without end.
        """
        with self._open() as file:
            lines = self._lines(file)[1:]
            done = {_place(line) for line in lines if "done" in line}
            claims = [line for line in lines if "claimed" in line]
            for line in claims:
                if line["claimed"] == claimant and _place(line) not in done:
                    return self._chunk(*_place(line))
            last = _place(claims[-1]) if claims else None
            chunk = self._after(last, epochs)
            if chunk is not None:
                self._append(file, {"claimed": claimant, **asdict(chunk)})
            return chunk

    def done(self, claimant: str, chunk: Chunk, steps: int = 0) -> None:
        """Write down that a chunk is used up, and the steps that were made of it."""
        with self._open() as file:
            self._append(file, {"done": claimant, "steps": steps, **asdict(chunk)})

    def records(self, chunk: Chunk) -> list[dict[str, Any]]:
        """The records of a chunk."""
        path = self._folder / f"block-{chunk.block:06}" / _RECORDS
        with open(path, encoding="utf-8") as file:
            lines = islice(file, chunk.first, chunk.first + chunk.count)
            return [json.loads(line) for line in lines]

    @property
    def state(self) -> dict[str, Any]:
        """What was completed: the last chunk, the epoch and blocks of it, all steps."""
        with self._open() as file:
            lines = self._lines(file)[1:]
        done = [line for line in lines if "done" in line]
        claims = [line for line in lines if "claimed" in line]
        epoch = claims[-1]["epoch"] if claims else 0
        visited = {line["block"] for line in claims if line["epoch"] == epoch}
        return {
            "completed": done[-1] if done else None,
            "epoch": epoch,
            "blocks_this_epoch": len(visited),
            "total_steps": sum(line["steps"] for line in done),
            "open": len(claims) - len({_place(line) for line in done}),
        }

    def _after(
        self, last: tuple[int, int, int] | None, epochs: int | None
    ) -> Chunk | None:
        """The chunk behind the one that was claimed last."""
        epoch, block, chunk = (0, 0, 0) if last is None else last
        places = [(epoch, block, chunk if last is None else chunk + 1)]
        places += [(epoch, block + 1, 0), (epoch + 1, 0, 0)]
        for place in places:
            if epochs is not None and place[0] >= epochs:
                return None
            meta = _meta(self._folder, place[1])
            if meta is not None and place[2] * self._size < meta["records"]:
                return self._chunk(*place)
        raise LuminaError(
            "E105",
            f"{self._folder}: no block with records",
            "write blocks of data that has documents",
        )

    def _chunk(self, epoch: int, block: int, chunk: int) -> Chunk:
        meta = _meta(self._folder, block)
        assert meta is not None
        first = chunk * self._size
        count = min(self._size, meta["records"] - first)
        return Chunk(epoch, block, chunk, first, count)

    @contextlib.contextmanager
    def _open(self) -> Iterator[TextIO]:
        """The journal, which no other process reads or writes meanwhile."""
        with open(self._journal, "a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                raise write_error(error, self._journal) from error
            yield file

    def _lines(self, file: TextIO) -> list[dict[str, Any]]:
        """All events; what a killed process left of a line is cut off."""
        file.seek(0)
        text = file.read()
        whole, _, rest = text.rpartition("\n")
        if rest:
            os.truncate(self._journal, len(text.encode()) - len(rest.encode()))
        return [json.loads(line) for line in whole.splitlines()]

    def _append(self, file: TextIO, event: dict[str, Any]) -> None:
        """Write an event down for good, before anything depends on it."""
        file.seek(0, os.SEEK_END)
        file.write(json.dumps(event) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _place(line: dict[str, Any]) -> tuple[int, int, int]:
    return int(line["epoch"]), int(line["block"]), int(line["chunk"])
