"""pass@k: how likely one of k answers passes its tests."""

from __future__ import annotations

from collections.abc import Iterable


def pass_at_k(answers: int, passed: int, k: int) -> float:
    """An unbiased estimate from more answers than k: 1 - C(n - c, k) / C(n, k).

    Chen et al. 2021 (arXiv:2107.03374), equation 1; computed as their product, which
    makes no large numbers.

    Args:
        answers: n, how many were drawn.
        passed: c, how many of them pass.
        k: how many one may try.

    Raises:
        ValueError: k is not from 1 to n, or c not from 0 to n.
    """
    if not (1 <= k <= answers and 0 <= passed <= answers):
        raise ValueError(f"pass@{k} of {answers} answers, {passed} of them passed")
    if answers - passed < k:
        return 1.0
    none = 1.0
    for i in range(answers - passed + 1, answers + 1):
        none *= 1.0 - k / i
    return 1.0 - none


def mean_pass_at_k(counts: Iterable[tuple[int, int]], k: int) -> float | None:
    """The mean over problems; None where one has fewer answers than k, or none is.

    Args:
        counts: of each problem the answers and how many of them passed.
        k: how many one may try.
    """
    pairs = list(counts)
    if not pairs or any(n < k for n, _ in pairs):
        return None
    return sum(pass_at_k(n, c, k) for n, c in pairs) / len(pairs)
