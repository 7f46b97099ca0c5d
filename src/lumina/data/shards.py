"""Tokenisation in shards: what a killed process had finished is not done again.

The tokens of each shard of the text go to a file, beside the store that is being built.
The file counts once it is whole and on the disk. Another attempt at the same store
reads the finished shards and encodes only what follows them. The store is the same,
byte for byte, as one that was built without shards or interruptions.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lumina.data.documents import Skipped
from lumina.data.long_conversations import Long
from lumina.data.split import document_bytes
from lumina.data.tokenise import Encoded, Part
from lumina.errors import LuminaError

_HEAD = struct.Struct("<BIQQ")
_HELD_OUT, _LAST, _CONVERSATION, _WEIGHTS, _LONG, _QUALITY = 1, 2, 4, 8, 16, 32

OnSkip = Callable[[Skipped], None]

Encode = Callable[[Iterable[Part], OnSkip | None], Iterator[Encoded]]
"""Encodes parts in order, and calls the second argument with what is left out."""


class Shards:
    """The shards of one store.

    Args:
        folder: is made, and removed by `remove`.
        shard_bytes: bytes of text in a shard, about.
        on_damage: is called with the error of a shard that cannot be used any more.
    """

    def __init__(
        self,
        folder: Path,
        shard_bytes: int,
        on_damage: Callable[[LuminaError], None] | None = None,
    ) -> None:
        self._folder = folder
        self._bytes = shard_bytes
        self._on_damage = on_damage
        folder.mkdir(parents=True, exist_ok=True)

    def encoded(
        self, parts: Iterator[Part], encode: Encode, on_skip: OnSkip | None
    ) -> Iterator[Encoded]:
        """All parts as tokens: those of finished shards from their files.

        Args:
            parts: all parts, in the order in which they always come.
            encode: makes tokens of those that no finished shard has.
            on_skip: as for `encode`; it is called for finished shards, too.
        """
        number = 0
        while (meta := self._finished(number)) is not None:
            read = sum(1 for _ in islice(parts, meta["parts"]))
            if read != meta["parts"]:
                raise LuminaError(
                    "E101",
                    "the data changed while it was being read",
                    "wait until nothing writes to it, and start again",
                )
            if on_skip is not None:
                for record in meta["skipped"]:
                    on_skip(Skipped(**record))
            with open(self._path(number), "rb") as file:
                yield from _read(file)
            number += 1
        self._remove_from(number)
        waiting: list[Part] = list(islice(parts, 1))
        while waiting:
            shard = _Shard(waiting[0], parts, self._bytes)
            yield from self._write(number, shard, encode, on_skip)
            waiting = [] if shard.following is None else [shard.following]
            number += 1

    def remove(self) -> None:
        """Remove all shards: the store is built."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _write(
        self, number: int, shard: _Shard, encode: Encode, on_skip: OnSkip | None
    ) -> Iterator[Encoded]:
        """Encode a shard, and keep it once it is whole."""
        skipped: list[Skipped] = []

        def skip(record: Skipped) -> None:
            assert on_skip is not None
            skipped.append(record)
            on_skip(record)

        digest = hashlib.sha256()
        temporary = self._path(number).with_suffix(".tmp")
        with open(temporary, "wb") as file:
            for one in encode(shard, None if on_skip is None else skip):
                data = _bytes_of(one)
                digest.update(data)
                file.write(data)
                yield one
            file.flush()
            os.fsync(file.fileno())
        meta = {
            "parts": shard.count,
            "sha256": digest.hexdigest(),
            "skipped": [asdict(record) for record in skipped],
        }
        os.replace(temporary, self._path(number))
        described = self._path(number).with_suffix(".json")
        temporary.write_text(json.dumps(meta))
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, described)

    def _finished(self, number: int) -> dict[str, Any] | None:
        """What is known of a finished shard; None: it is not there, or damaged."""
        path = self._path(number)
        try:
            meta: dict[str, Any] = json.loads(path.with_suffix(".json").read_bytes())
            with open(path, "rb") as file:
                whole = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            return None
        except ValueError:
            meta, whole = {}, "unreadable"
        if meta.get("sha256") == whole:
            return meta
        if self._on_damage is not None:
            self._on_damage(
                LuminaError(
                    "E101",
                    f"{path}: damaged; it and the shards behind it are made again",
                    "look at the disk that holds the cache",
                )
            )
        return None

    def _remove_from(self, number: int) -> None:
        """Remove what is half written, and what stands behind a damaged shard."""
        for path in self._folder.iterdir():
            if int(path.stem) >= number:
                path.unlink()

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06}.bin"


class _Shard:
    """The parts of one shard: from its first one on, until it is full.

    Attributes:
        count: parts so far.
        following: the first part of the next shard; None: there is none.
    """

    def __init__(self, first: Part, rest: Iterator[Part], most: int) -> None:
        self.count = 0
        self.following: Part | None = None
        self._first = first
        self._rest = rest
        self._most = most

    def __iter__(self) -> Iterator[Part]:
        part: Part | None = self._first
        size = 0
        while part is not None and size < self._most:
            self.count += 1
            size += document_bytes(part.document)
            yield part
            part = next(self._rest, None)
        self.following = part


def _bytes_of(one: Encoded) -> bytes:
    flags = (
        _HELD_OUT * one.held_out
        | _LAST * one.last
        | _CONVERSATION * one.conversation
        | _WEIGHTS * (one.weights is not None)
        | _LONG * (one.long is not None)
        | _QUALITY * (one.quality is not None)
    )
    parts = [
        _HEAD.pack(flags, len(one.ids), one.text_bytes, one.loss_bytes),
        one.ids.astype("<u4").tobytes(),
        np.packbits(one.mask, bitorder="little").tobytes(),
    ]
    if one.weights is not None:
        parts.append(one.weights.astype("<f4").tobytes())
    if one.long is not None:
        text = json.dumps(asdict(one.long)).encode()
        parts += [struct.pack("<I", len(text)), text]
    if one.quality is not None:
        parts.append(struct.pack("<d", one.quality))
    return b"".join(parts)


def _read(file: BinaryIO) -> Iterator[Encoded]:
    while head := file.read(_HEAD.size):
        flags, count, text_bytes, loss_bytes = _HEAD.unpack(head)
        ids = np.frombuffer(file.read(4 * count), dtype="<u4").astype(np.uint32)
        bits = np.frombuffer(file.read(-(-count // 8)), dtype=np.uint8)
        mask = np.unpackbits(bits, count=count, bitorder="little").astype(bool)
        weights = long = quality = None
        if flags & _WEIGHTS:
            found = np.frombuffer(file.read(4 * count), dtype="<f4")
            weights = found.astype(np.float32)
        if flags & _LONG:
            (size,) = struct.unpack("<I", file.read(4))
            long = Long(**json.loads(file.read(size)))
        if flags & _QUALITY:
            (quality,) = struct.unpack("<d", file.read(8))
        yield Encoded(
            bool(flags & _HELD_OUT),
            ids,
            mask,
            text_bytes,
            loss_bytes,
            bool(flags & _LAST),
            bool(flags & _CONVERSATION),
            long,
            weights,
            quality,
        )
