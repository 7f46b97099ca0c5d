"""Tokens on a terminal, with those that bear loss set apart."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import groupby

_LOSS, _PLAIN, _END = "\x1b[1;32m", "\x1b[2m", "\x1b[0m"


def colours() -> bool:
    """Whether standard output shows colours: a terminal, and no NO_COLOR."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def marked(pieces: Sequence[str], weights: Sequence[float], coloured: bool) -> str:
    """The text of tokens, those that bear loss in colour or in brackets.

    Args:
        pieces: the text of each token.
        weights: what each weighs in the loss; 0: it bears none. A weight that is not 1
            is written behind its tokens.
        coloured: in colour; otherwise in brackets ⟦ ⟧.
    """
    opening, closing = (_LOSS, _END) if coloured else ("⟦", "⟧")
    parts = []
    runs = groupby(zip(pieces, weights, strict=True), key=lambda one: one[1])
    for weight, group in runs:
        text = "".join(piece for piece, _ in group)
        if weight:
            told = "" if weight == 1 else f"×{weight:g}"
            parts.append(f"{opening}{text}{closing}{told}")
        else:
            parts.append(f"{_PLAIN}{text}{_END}" if coloured else text)
    return "".join(parts)
