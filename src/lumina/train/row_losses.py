"""The loss that a trained model has on each row of the data, as a measure of rows.

Every row is scored once: the losses are kept in the cache under the content of the
store, of the weights and the length of a row. What a killed process had scored is kept
too, and the next one goes on behind it.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from lumina.batch import IGNORE, Batch
from lumina.cache_root import cache_root
from lumina.data.batches import BatchMaker
from lumina.data.cache import build_once
from lumina.data.known_hashes import known_hash
from lumina.data.order import EMPTY
from lumina.data.packing import Packing
from lumina.data.split import Progress
from lumina.data.store import TokenStore
from lumina.data.store_folder import cache_key
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.infer.load import load
from lumina.measure.held_out import BATCH_TOKENS
from lumina.model.host_table import device_of
from lumina.state.manifest import MANIFEST_NAME
from lumina.state.weights import open_weights

if TYPE_CHECKING:
    from lumina.config import Config
    from lumina.model.network import Network

KEPT_IN = "row-losses"
"""The folder of the cache that holds the losses."""

LOSSES = "losses.bin"


def row_losses(
    config: Config, tokenizer: Tokenizer | None, on_progress: Progress | None
) -> RowLosses | None:
    """The measure that the settings ask for; None where they ask for none.

    Args:
        config: names the model and the device.
        tokenizer: of the data.
        on_progress: called with ("score", done, total), amounts in bytes of tokens.

    Raises:
        LuminaError: as `open_weights` for what is no trained model; E002 for one with
            another tokenizer.
    """
    path = config.mixture.score_model
    if path is None or tokenizer is None:
        return None
    return RowLosses(path, config.system.device, tokenizer, on_progress)


class RowLosses:
    """Gives the losses of the rows of a store, and makes those that are not kept.

    Args:
        path: a run, a checkpoint or an exported folder.
        device: where it is to run, as `lumina.load` takes it.
        tokenizer: what made the tokens of the data.
        on_progress: as of `row_losses`.
    """

    def __init__(
        self,
        path: str,
        device: str,
        tokenizer: Tokenizer,
        on_progress: Progress | None,
    ) -> None:
        self._device = device
        self._on_progress = on_progress
        self._network: Network | None = None
        self._digests: dict[int, list[str]] = {}
        weights = open_weights(path)
        try:
            self._path = weights.path
            self._weights = _content_of(weights.path)
            folder = weights.tokenizer_folder
        finally:
            weights.close()
        _check_tokenizer(path, folder, tokenizer)

    def __call__(self, store: TokenStore, packing: Packing) -> NDArray[np.float64]:
        """The mean loss of each chunk's row, in nats per token that bears loss."""
        key = cache_key(
            "row losses",
            store.fingerprint,
            packing.seq_length,
            len(packing),
            self._weights,
        )

        def opened(folder: Path) -> NDArray[np.float32]:
            found = np.fromfile(folder / LOSSES, dtype="<f4")
            if len(found) != len(packing):
                raise LuminaError(
                    "E101",
                    f"{folder / LOSSES} holds {len(found):,} of {len(packing):,} "
                    "losses; they are made again",
                    "look at the disk that holds the cache",
                )
            return found

        kept = cache_root() / KEPT_IN
        losses, _ = build_once(
            kept,
            key,
            lambda folder: self._score(store, packing, kept / f"{key}.part", folder),
            opened,
        )
        digests = self._digests.setdefault(packing.seq_length, [])
        digest = hashlib.sha256(losses.tobytes()).hexdigest()
        if digest not in digests:
            digests.append(digest)
        chunks = np.diff(packing.rows)
        return np.repeat(losses.astype(np.float64), chunks)

    def named(self, fingerprint: str, seq_length: int) -> str:
        """The fingerprint of data whose order follows these losses.

        Another machine may round them otherwise, which would be another order: a run
        goes on only where they are the same.
        """
        digests = self._digests.get(seq_length, [])
        return cache_key("ordered by losses", fingerprint, *digests)

    def _score(
        self, store: TokenStore, packing: Packing, part: Path, folder: Path
    ) -> None:
        """Fill a folder with the losses; what is done stays in the file `part`."""
        done = part.stat().st_size // 4 if part.is_file() else 0
        if self._network is None:
            self._network, _ = load(self._path, self._device)
        maker = BatchMaker(store, packing)
        size = max(1, BATCH_TOKENS // packing.seq_length)
        row_bytes = packing.seq_length * store.tokens.itemsize
        with open(part, "ab") as file:
            file.truncate(4 * done)  # a number that was cut off
            for begin in range(done, len(packing), size):
                rows = np.arange(begin, min(begin + size, len(packing)))
                padded = np.full(size, EMPTY, dtype=np.int64)
                padded[: len(rows)] = rows
                losses = mean_losses(self._network, maker.batch(padded))
                file.write(losses[: len(rows)].astype("<f4").tobytes())
                file.flush()
                if self._on_progress is not None:
                    whole = len(packing) * row_bytes
                    self._on_progress("score", (begin + len(rows)) * row_bytes, whole)
            os.fsync(file.fileno())
        os.replace(part, folder / LOSSES)


@torch.no_grad()
def mean_losses(network: Network, batch: Batch) -> NDArray[np.float32]:
    """[B] the mean loss of the tokens of each row that bear loss; 0 without any."""
    batch = batch.to(device_of(network))
    losses, _ = network(batch)
    each = losses.terms.get("each")
    if each is None:
        raise LuminaError(
            "E002",
            "score_model is a model that does not report the loss of each token",
            "name a plain language model with --score-model",
        )
    counted = batch.labels != IGNORE
    sums = torch.where(counted, each.float(), 0.0).sum(1)
    return (sums / counted.sum(1).clamp(min=1)).cpu().numpy()  # type: ignore[no-any-return]


def _content_of(folder: Path) -> str:
    """Names the content of the weights in a folder."""
    manifest = folder / MANIFEST_NAME
    if manifest.is_file():  # it holds the checksum of every file
        return known_hash(manifest)
    files = [*sorted(folder.glob("*.safetensors")), folder / "config.json"]
    return cache_key(*(f"{file.name}={known_hash(file)}" for file in files))


def _check_tokenizer(path: str, folder: Path, wanted: Tokenizer) -> None:
    """Refuse a model that would read other tokens than the data has."""
    if Tokenizer.from_path(folder).fingerprint == wanted.fingerprint:
        return
    raise LuminaError(
        "E002",
        f"score_model {path} has another tokenizer than the data, so that it cannot "
        "read the rows",
        f"train with its tokenizer (--tokenizer {folder}), or name another model",
    )
