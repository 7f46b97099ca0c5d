"""The values of the dynamic exponent code, of which 8-bit states are made too."""

from __future__ import annotations

from functools import cache


@cache
def dynamic_map(bits: int, signed: bool) -> tuple[float, ...]:
    """The values that codes stand for, from the smallest to the largest.

    The dynamic exponent of Dettmers, 2016, arXiv:1511.04561, as the 8-bit optimizers of
    Dettmers et al., 2022, arXiv:2110.02861, use it: `bits` - 1 decades up to 1, each
    with twice as many values as the one below, evenly spread, and 0 and 1 themselves.
    """
    values = [0.0, 1.0]
    for decade in range(bits - 1):
        count = 2**decade if signed else 2 ** (decade + 1)
        size = 10.0 ** (decade - bits + 2)
        middles = [0.1 + 0.9 * (k + 0.5) / count for k in range(count)]
        values += [size * middle for middle in middles]
        values += [-size * middle for middle in middles] if signed else []
    return tuple(sorted(values))
