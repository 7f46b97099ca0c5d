"""Rarity: how rare the tokens of a text are in the data.

The mean of -log p over its tokens, p being a token's share of the data: the word rarity
of competence-based curricula (Platanios et al., 2019, arXiv:1903.09848), for tokens.
"""

from __future__ import annotations

import numpy as np

from lumina.data.mixture.measures.table import Floats, register_measure, token_blocks
from lumina.data.packing import Packing
from lumina.data.store import TokenStore


@register_measure("rarity")
def rarity(store: TokenStore, packing: Packing) -> Floats:
    """Mean surprise of each chunk's tokens, in nats, by their own frequencies."""
    counts = np.zeros(store.vocab_size, dtype=np.int64)
    for _, tokens, _ in token_blocks(store, packing):
        counts += np.bincount(tokens, minlength=store.vocab_size)
    surprise = -np.log(np.maximum(counts, 1) / max(int(counts.sum()), 1))
    found = np.empty(len(packing.lengths), dtype=np.float64)
    for chunks, tokens, before in token_blocks(store, packing):
        sums = np.add.reduceat(surprise[tokens], before)
        found[chunks] = sums / packing.lengths[chunks]
    return found
