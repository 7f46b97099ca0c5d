"""Which rank holds which experts."""

from __future__ import annotations

from collections.abc import Sequence


def balanced(shares: Sequence[float], ranks: int) -> list[int]:
    """Experts placed so that all ranks get about as many rows, each as many experts.

    The most used expert first, each to the rank with the smallest sum that has a place
    left: the rule of Graham (1969) for jobs on machines, with as many jobs on each.

    Args:
        shares: of each expert, its part of the rows.
        ranks: their number divides that of the experts.

    Returns:
        The expert of each slot; rank r has the slots r * E / R to (r + 1) * E / R - 1.
        In their own order where all shares are alike.
    """
    experts = len(shares)
    if len(set(shares)) <= 1:
        return list(range(experts))
    held: list[list[int]] = [[] for _ in range(ranks)]
    sums = [0.0] * ranks
    for expert in sorted(range(experts), key=lambda e: (-shares[e], e)):
        open_ = [rank for rank in range(ranks) if len(held[rank]) < experts // ranks]
        rank = min(open_, key=lambda r: (sums[r], r))
        held[rank].append(expert)
        sums[rank] += shares[expert]
    return [expert for mine in held for expert in sorted(mine)]
