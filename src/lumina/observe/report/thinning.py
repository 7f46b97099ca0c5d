"""Few points that keep all spikes, and means that a smoothed line may be drawn from."""

from __future__ import annotations

import numpy as np

from lumina.observe.report.metrics import Values


def thin(xs: Values, ys: Values, buckets: int) -> tuple[Values, Values]:
    """At most about twice as many points as buckets: ends, and each bucket's extremes.

    Args:
        xs: in rising order, [n].
        ys: the values there, [n].
        buckets: equal parts of the range of `xs`.

    Returns:
        The points that are kept, unchanged and in their order.
    """
    if len(xs) <= 2 * buckets:
        return xs, ys
    starts, stops = _bounds(xs, buckets)
    kept = {0, len(xs) - 1}
    for start, stop in zip(starts, stops, strict=True):
        part = ys[start:stop]
        kept |= {int(start + part.argmin()), int(start + part.argmax())}
    chosen = np.array(sorted(kept))
    return xs[chosen], ys[chosen]


def means(xs: Values, ys: Values, buckets: int) -> tuple[Values, Values]:
    """The mean point of each bucket; all points where `thin` keeps all of them."""
    if len(xs) <= 2 * buckets:
        return xs, ys
    starts, stops = _bounds(xs, buckets)
    sizes = stops - starts
    return np.add.reduceat(xs, starts) / sizes, np.add.reduceat(ys, starts) / sizes


def _bounds(xs: Values, buckets: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each bucket that holds points begins and ends."""
    span = (xs[-1] - xs[0]) or 1.0
    numbers = np.minimum(((xs - xs[0]) / span * buckets).astype(int), buckets - 1)
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    return starts, np.append(starts[1:], len(xs))
