"""A document as it is trained on: its text, with what bears loss in brackets."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lumina.data.store import TokenStore
from lumina.data.tokenizer import Tokenizer

OPEN, CLOSE = "⟦", "⟧"
"""Around what bears loss."""

TOKENS = 96
"""Of a document that is shown as an example."""

IDS = 12
"""Ids that are shown of it."""


def example_of(store: TokenStore, tokenizer: Tokenizer) -> str | None:
    """A part of the first document in one line; None without a document.

    It begins shortly before the first token that bears loss.
    """
    if not len(store):
        return None
    size = int(store.starts[1])
    mask = store.bears_loss(np.arange(size))
    mask[:1] = False
    return example_in_words(store.tokens[:size], mask, tokenizer)


def example_in_words(
    tokens: NDArray[np.integer[Any]], mask: NDArray[np.bool_], tokenizer: Tokenizer
) -> str:
    """`example_of` a document of these tokens.

    Args:
        tokens: [N] ids.
        mask: [N], which of them bear loss.
        tokenizer: of the ids.
    """
    taught = mask.nonzero()[0]
    first = max(int(taught[0]) - TOKENS // 2, 0) if len(taught) else 0
    last = min(first + TOKENS, len(tokens))
    ids = tokens[first:last].tolist()
    text = bracketed(tokenizer, ids, mask[first:last].tolist())
    told = "... " * bool(first) + text + " ..." * (last < len(tokens))
    shown = " ".join(map(str, ids[:IDS])) + " ..." * (len(ids) > IDS)
    return f"{told} (ids {shown})".replace("\n", "\\n")


def bracketed(tokenizer: Tokenizer, ids: Sequence[int], mask: Sequence[float]) -> str:
    """The text of tokens, with brackets around what bears loss."""
    parts = []
    marked = [(index, bool(bears)) for index, bears in zip(ids, mask, strict=True)]
    for bears, run in groupby(marked, key=lambda one: one[1]):
        text = tokenizer.decode([index for index, _ in run])
        parts.append(f"{OPEN}{text}{CLOSE}" if bears else text)
    return "".join(parts)
