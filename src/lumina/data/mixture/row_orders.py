"""Orders of the rows of one set of text: by difficulty, or in proportion to a score."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lumina.data.mixture.measures import MEASURES, Measure
from lumina.data.mixture.measures.table import Floats, of_rows
from lumina.data.order import Numbered, Shuffle
from lumina.data.packed_stream import shuffled
from lumina.data.packing import pack
from lumina.data.store import TokenStore
from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.config import Config

Ints = NDArray[np.int64]


class Curriculum(Shuffle):
    """Every row once an epoch; the first epochs from easy to hard.

    Args:
        difficulty: [R] of each row.
        epochs: passes that go from easy to hard; the later ones are shuffled.
        spread: how far rows are mixed, as a share of all rows: 0 sorts them, and with
            more a row may come so much earlier or later than its place.
        seed: with the epoch and the fingerprint, decides what is drawn.
        fingerprint: names the content of the data.
    """

    def __init__(
        self,
        difficulty: Floats,
        *,
        epochs: int,
        spread: float,
        seed: int,
        fingerprint: str,
    ) -> None:
        super().__init__(len(difficulty), seed=seed, fingerprint=fingerprint)
        self._places = np.empty(len(difficulty), dtype=np.int64)
        self._places[np.argsort(difficulty, kind="stable")] = np.arange(len(difficulty))
        self._epochs, self._spread = epochs, spread

    def in_epoch(self, epoch: int) -> Ints:
        """The rows of an epoch."""
        drawn = super().in_epoch(epoch)
        if epoch >= self._epochs:
            return drawn
        # `drawn` is a permutation, so each row gets another number from it.
        shift = self._spread * (drawn - (len(drawn) - 1) / 2)
        return np.argsort(self._places + shift, kind="stable")


class Sampled(Shuffle):
    """As many rows an epoch as there are, each as often as its weight says.

    In every epoch a row with the weight w, of which the mean is 1, comes at least w
    times rounded down and at most w times rounded up (systematic sampling); which of
    the two is drawn anew for each epoch.

    Args:
        weights: [R] of each row, not negative.
        seed: with the epoch and the fingerprint, decides what is drawn.
        fingerprint: names the content of the data.
    """

    def __init__(self, weights: Floats, *, seed: int, fingerprint: str) -> None:
        super().__init__(len(weights), seed=seed, fingerprint=fingerprint)
        self._ends = np.cumsum(weights * (len(weights) / weights.sum()))
        self._name = f"{seed}:{fingerprint}"

    def in_epoch(self, epoch: int) -> Ints:
        """The rows of an epoch, some several times and some not at all."""
        drawn = hashlib.sha256(f"sampled:{self._name}:{epoch}".encode()).digest()
        offset = int.from_bytes(drawn[:8], "little") / 2**64
        count = len(self._ends)
        points = np.arange(count) + offset
        rows = np.minimum(np.searchsorted(self._ends, points, side="right"), count - 1)
        return rows[super().in_epoch(epoch)]


def own_order(config: Config) -> bool:
    """Whether the settings ask for a curriculum, or for rows by a score."""
    asked = config.mixture
    return asked.curriculum is not None or asked.sample_by is not None


def refuse_own_order(config: Config) -> None:
    """Refuse an order that text which is read as it goes cannot have.

    Raises:
        LuminaError: E002.
    """
    if own_order(config):
        raise LuminaError(
            "E002",
            "curriculum and sample_by order the packed rows of a store, and text of "
            "this size is streamed",
            "use --data-loading sharded, or leave them out",
        )


def refuse_counted(config: Config) -> None:
    """Refuse bounds that have to be counted from the beginning of the data.

    Raises:
        LuminaError: E002.
    """
    for leaf in ("max_conversations_per_dataset", "max_conversations_per_file"):
        if config.get(leaf) is not None:
            raise LuminaError(
                "E002",
                f"{leaf} counts conversations from the first one on, and text of this "
                "size is streamed, which may go on anywhere",
                f"use --data-loading sharded, or leave --{leaf.replace('_', '-')} out",
            )


def row_order(
    config: Config,
    store: TokenStore,
    seq_length: int,
    measures: Mapping[str, Measure] | None = None,
) -> Numbered:
    """The packed rows of a store in the order that the settings say.

    Args:
        config: names a curriculum or a score, or neither.
        store: the tokens.
        seq_length: positions of a row.
        measures: further measures by name, such as the loss of a model.

    Raises:
        LuminaError: E002 for negative scores as weights.
    """
    asked, seed = config.mixture, config.train.seed
    packing = pack(store, seq_length)
    if not own_order(config) or not len(packing):
        return shuffled(store, seq_length, seed)

    def measured(name: str) -> Floats:
        return of_rows((MEASURES | dict(measures or {}))[name](store, packing), packing)

    if asked.curriculum is not None:
        return Curriculum(
            measured(asked.curriculum),
            epochs=asked.curriculum_epochs,
            spread=asked.curriculum_spread,
            seed=seed,
            fingerprint=store.fingerprint,
        )
    assert asked.sample_by is not None
    scores = measured(asked.sample_by)
    if scores.min() < 0:
        raise LuminaError(
            "E002",
            f"sample_by {asked.sample_by} takes a row as often as its score says, and "
            f"some are negative, down to {scores.min():g}",
            f"use scores from 0 on, or --curriculum {asked.sample_by}",
        )
    weights = np.maximum(scores, 1e-12) ** asked.sample_power
    return Sampled(weights, seed=seed, fingerprint=store.fingerprint)
