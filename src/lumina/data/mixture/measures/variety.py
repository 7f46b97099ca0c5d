"""Variety: how many of a text's tokens are different ones.

A lexical sign of quality: boilerplate and text that repeats itself have little of it.
It says nothing about what a text means.
"""

from __future__ import annotations

import numpy as np

from lumina.data.mixture.measures.table import Floats, register_measure, token_blocks
from lumina.data.packing import Packing
from lumina.data.store import TokenStore


@register_measure("variety")
def variety(store: TokenStore, packing: Packing) -> Floats:
    """Distinct tokens of each chunk over the square root of twice its length.

    That is the corrected type-token ratio (Carroll, 1964), which long texts do not
    lower as they lower the plain ratio.
    """
    found = np.empty(len(packing.lengths), dtype=np.float64)
    for chunks, tokens, _ in token_blocks(store, packing):
        lengths = packing.lengths[chunks].astype(np.int64)
        owner = np.repeat(np.arange(len(lengths)), lengths)
        pairs = np.unique(owner * store.vocab_size + tokens)
        distinct = np.bincount(pairs // store.vocab_size, minlength=len(lengths))
        found[chunks] = distinct / np.sqrt(2.0 * lengths)
    return found
