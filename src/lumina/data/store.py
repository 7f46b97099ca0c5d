"""Tokens on disk, memory-mapped: written once, checked when opened.

A store is a folder with `tokens.bin` (uint16 or uint32), `documents.bin` (int64, the
start of every document and the end of the last), `mask.bin` (a bit a token, only where
some tokens bear no loss) and `store.json`, which carries sizes and checksums. Where
some labels weigh more or less than 1 in the loss, `weight_starts.bin` (int64) and
`weights.bin` (float32) say from which token on which weight holds. Where records have
scores, `quality.bin` (float32) has that of every document.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from lumina.data.known_hashes import known_hash
from lumina.errors import LuminaError

FORMAT_VERSION = 1

_HEADER = "store.json"
_TOKENS = "tokens.bin"
_DOCUMENTS = "documents.bin"
_MASK = "mask.bin"
_WEIGHT_STARTS = "weight_starts.bin"
_WEIGHTS = "weights.bin"
_QUALITY = "quality.bin"


class StoreWriter:
    """Writes the files of a store; it is complete only after `close`.

    Args:
        folder: an existing folder.
        vocab_size: decides how wide a token is.
        masked: whether some tokens bear no loss.
        weighted: whether some tokens may weigh something else than 1 in the loss.
        scored: whether documents have scores.
    """

    def __init__(
        self,
        folder: Path,
        vocab_size: int,
        masked: bool,
        weighted: bool = False,
        scored: bool = False,
    ) -> None:
        self.folder = folder
        self.vocab_size = vocab_size
        self.dtype = np.dtype("<u2" if vocab_size <= 2**16 else "<u4")
        self.tokens = _HashedFile(folder / _TOKENS)
        self.mask = _HashedFile(folder / _MASK) if masked else None
        self.weights = _Runs(folder) if weighted else None
        self.quality: list[float] | None = [] if scored else None
        self.ends = [0]
        self.length = 0
        self.bytes = 0
        self.loss_tokens = 0
        self.loss_bytes = 0
        self._bits = np.zeros(0, dtype=bool)  # fewer than eight, not yet written

    def add(
        self,
        ids: NDArray[np.integer[Any]],
        mask: NDArray[np.bool_],
        *,
        text_bytes: int,
        loss_bytes: int,
        last: bool,
        weights: NDArray[np.float32] | None = None,
        quality: float | None = None,
    ) -> None:
        """Append a document or a piece of one.

        Args:
            ids: [N] token ids.
            mask: [N], which of them count as labels.
            weights: [N], what each label weighs; None: all weigh 1.
            text_bytes: UTF-8 bytes of the text.
            loss_bytes: those of them that bear loss.
            last: the document ends here.
            quality: the score of the document, where documents have scores.
        """
        self.tokens.write(ids.astype(self.dtype).tobytes())
        if self.mask is not None:
            bits = np.concatenate([self._bits, mask])
            whole = len(bits) // 8 * 8
            self.mask.write(np.packbits(bits[:whole], bitorder="little").tobytes())
            self._bits = bits[whole:]
        if self.weights is not None:
            self.weights.add(self.length, mask, weights)
        self.length += len(ids)
        self.loss_tokens += int(mask.sum())
        self.bytes += text_bytes
        self.loss_bytes += loss_bytes
        if last:
            self.ends.append(self.length)
            if self.quality is not None:
                self.quality.append(math.nan if quality is None else quality)

    def close(self) -> None:
        """Finish the files and write the header."""
        if self.mask is not None:
            self.mask.write(np.packbits(self._bits, bitorder="little").tobytes())
        documents = _HashedFile(self.folder / _DOCUMENTS)
        documents.write(np.array(self.ends, dtype="<i8").tobytes())
        files = [self.tokens, documents, *([self.mask] if self.mask else [])]
        if self.weights is not None:
            files += self.weights.files
        if self.quality is not None:
            files.append(_HashedFile(self.folder / _QUALITY))
            files[-1].write(np.array(self.quality, dtype="<f4").tobytes())
        header = {
            "format_version": FORMAT_VERSION,
            "dtype": self.dtype.str,
            "vocab_size": self.vocab_size,
            "documents": len(self.ends) - 1,
            "tokens": self.length,
            "bytes": self.bytes,
            "loss_tokens": self.loss_tokens,
            "loss_bytes": self.loss_bytes,
            "files": {file.name: file.close() for file in files},
        }
        header["checksum"] = _checksum(header)
        (self.folder / _HEADER).write_text(json.dumps(header, indent=1) + "\n")


class _Runs:
    """Writes the weights of tokens as runs of equal ones."""

    def __init__(self, folder: Path) -> None:
        self.files = [_HashedFile(folder / _WEIGHT_STARTS)]
        self.files.append(_HashedFile(folder / _WEIGHTS))
        self.last: float | None = None

    def add(
        self, begin: int, mask: NDArray[np.bool_], weights: NDArray[np.float32] | None
    ) -> None:
        """Append tokens; `begin` is the place of the first. Only labels weigh."""
        weight = np.ones(len(mask), dtype="<f4") if weights is None else weights
        weight = np.where(mask, weight, np.float32(1)).astype("<f4")
        if not len(weight):
            return
        first = weight[0] if self.last is None else np.float32(self.last)
        changes = np.diff(weight, prepend=first) != 0
        changes[0] |= self.last is None
        starts = np.flatnonzero(changes)
        self.files[0].write((starts + begin).astype("<i8").tobytes())
        self.files[1].write(weight[starts].tobytes())
        self.last = float(weight[-1])


class _HashedFile:
    """A file being written, with the sha256 of what went into it."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self.file: BinaryIO = open(path, "wb")  # noqa: SIM115
        self.hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        self.file.write(data)
        self.hash.update(data)
        self.size += len(data)

    def close(self) -> dict[str, Any]:
        self.file.close()
        return {"size": self.size, "sha256": self.hash.hexdigest()}


class TokenStore:
    """Token ids of many documents; read from disk only where they are touched.

    Attributes:
        tokens: [T] memory-mapped token ids, documents one after another.
        starts: [N + 1] int64, where each document begins; the last is T.
        mask: memory-mapped bits (little end first), or None when every token but a
            document's first bears loss.
        weighted: whether some labels may weigh something else than 1.
        quality: [N] float32, the score of every document; None where they have none.
        bytes: UTF-8 bytes of the text.
        loss_tokens: tokens that bear loss, `loss_bytes` the bytes they spell.
        fingerprint: sha256 over the content: equal stores have equal fingerprints.
    """

    def __init__(self, folder: Path, header: dict[str, Any]) -> None:
        self.folder = folder
        self.header = header
        self.vocab_size = int(header["vocab_size"])
        self.bytes = int(header["bytes"])
        self.loss_tokens = int(header["loss_tokens"])
        self.loss_bytes = int(header["loss_bytes"])
        self.tokens = _map(folder / _TOKENS, np.dtype(header["dtype"]))
        self.starts = np.fromfile(folder / _DOCUMENTS, dtype="<i8").astype(np.int64)
        masked = _MASK in header["files"]
        self.mask = _map(folder / _MASK, np.dtype("u1")) if masked else None
        self.weighted = _WEIGHTS in header["files"]
        if self.weighted:
            self._weight_starts = _map(folder / _WEIGHT_STARTS, np.dtype("<i8"))
            self._weights = _map(folder / _WEIGHTS, np.dtype("<f4"))
        scored = _QUALITY in header["files"]
        self.quality = _map(folder / _QUALITY, np.dtype("<f4")) if scored else None
        hashes = [header["files"][name]["sha256"] for name in sorted(header["files"])]
        self.fingerprint = hashlib.sha256(":".join(hashes).encode()).hexdigest()

    def __len__(self) -> int:
        """The number of documents."""
        return len(self.starts) - 1

    @classmethod
    def open(cls, folder: Path) -> TokenStore:
        """Open a finished store; E101 when a file is missing, cut or altered.

        The header and the document index are checked byte for byte, the tokens by
        their size: `verify` reads those too.
        """
        header = _read_header(folder)
        for name, facts in header["files"].items():
            path = folder / name
            size = path.stat().st_size if path.is_file() else -1
            if size != facts["size"]:
                raise _damaged(path, f"{size} bytes instead of {facts['size']}")
        _verify_file(folder / _DOCUMENTS, header)
        return cls(folder, header)

    def verify(self) -> None:
        """Compare the checksum of every file (E101).

        A large one that has not changed since it was last read is not read again.
        """
        for name in self.header["files"]:
            _verify_file(self.folder / name, self.header)

    @property
    def bytes_in_memory(self) -> int:
        """What `read_into_memory` takes."""
        return int(self.tokens.nbytes) + (0 if self.mask is None else self.mask.nbytes)

    def read_into_memory(self) -> None:
        """Hold the tokens and the mask in memory in place of mapping the files."""
        self.tokens = np.array(self.tokens)
        if self.mask is not None:
            self.mask = np.array(self.mask)

    def document(self, index: int) -> NDArray[np.integer[Any]]:
        """Token ids of one document, with its begin and end tokens."""
        return np.asarray(self.tokens[self.starts[index] : self.starts[index + 1]])

    def bears_loss(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these tokens (none a document's first) count as labels."""
        if self.mask is None:
            return np.ones(len(positions), dtype=bool)
        bits: NDArray[np.uint8] = self.mask[positions >> 3] >> (positions & 7) & 1
        return bits.astype(bool)

    def loss_weights(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """[N] what these tokens weigh in the loss where they are labels."""
        if not self.weighted:
            return np.ones(len(positions), dtype=np.float32)
        run = np.searchsorted(self._weight_starts, positions, side="right") - 1
        return np.asarray(self._weights[run], dtype=np.float32)

    def bits_per_byte(self, mean_loss: float) -> float:
        """Bits a byte of text for a mean loss in nats a token (NaN without text)."""
        if not self.loss_bytes:
            return math.nan
        return mean_loss * self.loss_tokens / self.loss_bytes / math.log(2)


def _map(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return np.zeros(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r")


def _read_header(folder: Path) -> dict[str, Any]:
    path = folder / _HEADER
    try:
        header = json.loads(path.read_bytes())
        checksum = header.pop("checksum")
        version = header["format_version"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"no readable header: {error!r}") from None
    if checksum != _checksum(header):
        raise _damaged(path, "its checksum does not match")
    if version != FORMAT_VERSION:
        raise _damaged(path, f"format version {version}, expected {FORMAT_VERSION}")
    return dict(header)


def _verify_file(path: Path, header: dict[str, Any]) -> None:
    if known_hash(path) != header["files"][path.name]["sha256"]:
        raise _damaged(path, "its checksum does not match")


def _checksum(header: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def _damaged(path: Path, reason: str) -> LuminaError:
    return LuminaError(
        "E101",
        f"{path}: damaged token store: {reason}",
        "delete the folder; it is made again from the data",
    )
