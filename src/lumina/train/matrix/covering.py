"""Rows of features so that every two, or three, of them stand together in one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

Together = tuple[str, ...]
"""Names of features, in the order of the table."""


def covering(
    names: Sequence[str],
    allowed: Callable[[Together], bool],
    *,
    strength: int,
    width: int,
) -> tuple[list[Together], list[Together]]:
    """A covering array of features that are on, made greedily.

    As AETG (Cohen, Dalal, Fredman and Patton, 1997), without its random draws: a row
    begins with the first tuple that is not covered yet and takes on, one after another,
    the feature that covers most further ones. A row holds `width` features at most, so
    that what one tells is about few of them.

    Args:
        names: of the features.
        allowed: whether features go together in one row. What it refuses for a set it
            has to refuse for every larger one.
        strength: 2 for pairs, 3 for triples.
        width: most features of a row; at least `strength`.

    Returns:
        The rows, and the tuples that are not allowed.

    Raises:
        ValueError: for a width below the strength.
    """
    if width < strength:
        raise ValueError(f"rows of {width} features hold no {strength} of them")
    every = list(combinations(names, strength))
    refused = [one for one in every if not allowed(one)]
    left = dict.fromkeys(one for one in every if one not in set(refused))
    order = {name: place for place, name in enumerate(names)}
    rows = []
    while left:
        row = next(iter(left))
        while len(row) < width:
            best, most = row, 0
            for name in names:
                if name in row:
                    continue
                wider = tuple(sorted((*row, name), key=order.__getitem__))
                gain = sum(
                    name in one and one in left for one in combinations(wider, strength)
                )
                if gain > most and allowed(wider):
                    best, most = wider, gain
            if not most:
                break
            row = best
        for one in combinations(row, strength):
            left.pop(one, None)
        rows.append(row)
    return rows, refused
