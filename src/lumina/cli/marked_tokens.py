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


def marked(pieces: Sequence[str], mask: Sequence[bool], coloured: bool) -> str:
    """The text of tokens, those that bear loss in colour or in brackets.

    Args:
        pieces: the text of each token.
        mask: whether each bears loss.
        coloured: in colour; otherwise in brackets ⟦ ⟧.
    """
    opening, closing = (_LOSS, _END) if coloured else ("⟦", "⟧")
    parts = []
    for bears, group in groupby(zip(pieces, mask, strict=True), key=lambda one: one[1]):
        text = "".join(piece for piece, _ in group)
        if bears:
            parts.append(f"{opening}{text}{closing}")
        else:
            parts.append(f"{_PLAIN}{text}{_END}" if coloured else text)
    return "".join(parts)
