"""How often a run has seen each token of its vocabulary, counted on the device.

A step adds its tokens to a table and reads nothing back. The table is read, and added
up over the ranks, where a run waits for the device anyway: at evaluations and
checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lumina.batch import Batch
from lumina.parallel.mesh import RankGroup

SLOT = "vocabulary_counts"
"""The slot of a State that holds the table."""

NAME = "counts"

RARE_BELOW = 10
"""A token that was seen, but fewer times than this, is rare."""


class VocabularyCounts:
    """A count for each token, of each source where there are several.

    Args:
        vocab_size: tokens of the vocabulary.
        sources: the names of the sources; none where the data is one.
        device: where batches are.
    """

    def __init__(
        self, vocab_size: int, sources: Sequence[str], device: torch.device
    ) -> None:
        self.sources = tuple(sources)
        self._vocab_size = vocab_size
        size = max(len(sources), 1) * vocab_size
        self.counts = torch.zeros(size, dtype=torch.int64, device=device)

    def add(self, batch: Batch) -> None:
        """Count the tokens of a batch that are not padding.

        Args:
            batch: on the device.
        """
        ids_bs = batch.input_ids
        if batch.source_ids is not None:
            ids_bs = ids_bs + self._vocab_size * batch.source_ids[:, None]
        there_bs = (batch.document_ids >= 0).to(torch.int64)
        self.counts.index_add_(0, ids_bs.flatten(), there_bs.flatten())

    def whole(self, ranks: RankGroup) -> Tensor:
        """[sources, V] int64, the counts of all ranks."""
        counts = self.counts.clone()
        ranks.sum_(counts)
        return counts.view(-1, self._vocab_size)

    def restore(self, counts: Tensor, main: bool) -> None:
        """Go on from the counts of a checkpoint, which one rank takes over."""
        self.counts.zero_()
        if main:
            self.counts.copy_(counts.flatten())

    def metrics(self, ranks: RankGroup) -> dict[str, float]:
        """Shares of the vocabulary, as keys of a metrics row.

        `vocabulary_seen` is the share of the vocabulary that was seen so far, and
        `vocabulary_rare` the share that was seen, but less than `RARE_BELOW` times.
        """
        table = self.whole(ranks)
        found = _shares("", table.sum(0))
        for name, counts in zip(self.sources, table, strict=False):
            found |= _shares(f"source.{name}.", counts)
        return found


def _shares(prefix: str, counts: Tensor) -> dict[str, float]:
    seen = counts > 0
    both = torch.stack([seen, seen & (counts < RARE_BELOW)]).double().mean(1).tolist()
    keys = (f"{prefix}vocabulary_seen", f"{prefix}vocabulary_rare")
    return dict(zip(keys, both, strict=True))


def share_of(shares: dict[str, float], prefix: str) -> float:
    """The part of the tokens that were seen which are rare; 0 where none was seen."""
    seen = shares[f"{prefix}vocabulary_seen"]
    return shares[f"{prefix}vocabulary_rare"] / seen if seen else 0.0
