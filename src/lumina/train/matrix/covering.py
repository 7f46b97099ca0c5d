"""Rows of features so that every two, or three, of them stand together in one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import combinations

Together = tuple[str, ...]
"""Names of features, in the order of the table."""


def covering(
    names: Sequence[str],
    allowed: Callable[[Together], bool],
    *,
    strength: int,
    width: int,
    done: Collection[Together] = (),
    accepted: Callable[[Together], bool] = lambda row: True,
) -> tuple[list[Together], list[Together]]:
    """A covering array of features that are on, made greedily.

    As AETG (Cohen, Dalal, Fredman and Patton, 1997), without its random draws: a row
    begins with the first tuple that is not covered yet and takes on, one after another,
    the feature that covers most further ones. A row holds `width` features at most, so
    that what one tells is about few of them.

    Args:
        names: of the features.
        allowed: whether features go together in one row; asked often. What it refuses
            for a set it has to refuse for every larger one.
        strength: 2 for pairs, 3 for triples.
        width: most features of a row; at least `strength`.
        done: tuples that no row is needed for.
        accepted: the same as `allowed`, by what takes longer to find out: it is asked
            for whole rows, and for parts of those that it refuses.

    Returns:
        The rows, and the tuples that are not allowed or not accepted.

    Raises:
        ValueError: for a width below the strength.
    """
    if width < strength:
        raise ValueError(f"rows of {width} features hold no {strength} of them")
    every = list(combinations(names, strength))
    refused = [one for one in every if not allowed(one)]
    order = {name: place for place, name in enumerate(names)}
    without = {*refused, *done}
    left = dict.fromkeys(one for one in every if one not in without)
    conflicts: list[frozenset[str]] = []

    def together(row: Together) -> bool:
        held = frozenset(row)
        return not any(held >= one for one in conflicts) and allowed(row)

    rows = []
    while left:
        row = _row(left, names, order, together, strength, width)
        if not accepted(row):
            fault = smallest_refused(row, accepted)
            conflicts.append(frozenset(fault))
            lost = [one for one in left if set(fault) <= set(one)]
            refused += lost
            for one in lost:
                del left[one]
            continue
        for one in combinations(row, strength):
            left.pop(one, None)
        rows.append(row)
    return rows, refused


def smallest_refused(row: Together, accepted: Callable[[Together], bool]) -> Together:
    """A part of a refused row of which every smaller part is accepted.

    Args:
        row: features that are not accepted together.
        accepted: what it refuses for a set it has to refuse for every larger one.
    """
    for name in row:
        part = tuple(one for one in row if one != name)
        if part and not accepted(part):
            row = part
    return row


def _row(
    left: Collection[Together],
    names: Sequence[str],
    order: dict[str, int],
    together: Callable[[Together], bool],
    strength: int,
    width: int,
) -> Together:
    """The first tuple that is left, and what goes with it and covers most others."""
    row = next(iter(left))
    while len(row) < width:
        gains = {}
        for name in names:
            if name not in row:
                others = combinations(row, strength - 1)
                gains[name] = sum(
                    tuple(sorted((*one, name), key=order.__getitem__)) in left
                    for one in others
                )
        # The first of those that cover most, as far as it goes with the others.
        for name in sorted(gains, key=lambda one: -gains[one]):
            wider = tuple(sorted((*row, name), key=order.__getitem__))
            if not gains[name] or together(wider):
                break
        else:
            return row
        if not gains[name]:
            return row
        row = wider
    return row
