"""What the trained model has to beat: gzip, and counting pairs of tokens."""

from __future__ import annotations

import gzip
import math

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]


def gzip_bits_per_byte(text: str) -> float:
    """Size of `gzip -9` of the whole text over its own size, in bits per byte."""
    raw = text.encode()
    return 8 * len(gzip.compress(raw, compresslevel=9, mtime=0)) / len(raw)


class Bigram:
    """A token bigram with interpolated Kneser-Ney smoothing.

    Kneser and Ney 1995; Chen and Goodman 1999 for the interpolated form and the
    estimate of the discount. Each document starts from a context of its own.

    Args:
        documents: token ids, one list to a document.
        vocab_size: number of different ids.
    """

    def __init__(self, documents: list[list[int]], vocab_size: int) -> None:
        self.vocab_size = vocab_size
        pairs, counts = np.unique(self._pairs(documents), return_counts=True)
        self.pairs: Ids = pairs
        self.counts: Ids = counts.astype(np.int64)
        once, twice = (counts == 1).sum(), (counts == 2).sum()
        self.discount = float(once / max(once + 2 * twice, 1)) or 0.5
        first, second = np.divmod(pairs, vocab_size)
        contexts = vocab_size + 1  # and the start of a document
        self.context_total = np.bincount(first, weights=counts, minlength=contexts)
        self.context_kinds = np.bincount(first, minlength=contexts)
        # In how many contexts a token was seen, with half a count for every token.
        kinds = np.bincount(second, minlength=vocab_size) + 0.5
        self.continuation = kinds / kinds.sum()

    def _pairs(self, documents: list[list[int]]) -> Ids:
        """Every (token before, token) as one number; the start counts as a token."""
        parts = []
        for document in documents:
            ids = np.asarray([self.vocab_size, *document], dtype=np.int64)
            parts.append(ids[:-1] * self.vocab_size + ids[1:])
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def probabilities(self, pairs: Ids) -> npt.NDArray[np.float64]:
        """P(token | token before) of encoded pairs."""
        first, second = np.divmod(pairs, self.vocab_size)
        place = np.searchsorted(self.pairs, pairs).clip(max=len(self.pairs) - 1)
        seen = np.where(self.pairs[place] == pairs, self.counts[place], 0)
        total = self.context_total[first]
        known = np.maximum(total, 1)
        direct = np.maximum(seen - self.discount, 0) / known
        rest = np.where(
            total > 0, self.discount * self.context_kinds[first] / known, 1.0
        )
        blended: npt.NDArray[np.float64] = direct + rest * self.continuation[second]
        return blended

    def bits(self, documents: list[list[int]]) -> float:
        """Bits to write the documents down with this model."""
        return float(-np.log2(self.probabilities(self._pairs(documents))).sum())


def bits_per_byte(nats: float, size: int) -> float:
    """A sum of negative log likelihoods in nats as bits per byte of text."""
    return nats / math.log(2) / size
