"""What a sweep suggests, on losses whose steepest place is known."""

from __future__ import annotations

import math

import pytest

from lumina.measure.lr_range import suggest
from lumina.observe.log_plot import Line, plot

RATES = [10 ** (-6 + 5 * n / 99) for n in range(100)]


def valley(rate: float) -> float:
    """Falls most steeply at 1e-3, is lowest near 1e-2, and explodes after."""
    return 10 - 4 / (1 + (1e-3 / rate) ** 3) + (rate / 2e-2) ** 4


@pytest.mark.covers("TRN-16", "DIA-16")
def test_the_steepest_place_is_suggested() -> None:
    losses = [valley(rate) for rate in RATES]
    found = suggest(RATES, losses)
    assert found.rate == pytest.approx(1e-3, rel=0.2)
    assert found.lowest == pytest.approx(1e-2, rel=0.6)
    assert found.diverged is None or found.diverged > 2e-2
    assert "most steeply" in found.how and f"{found.lowest:.2g}" in found.how


def test_noise_of_single_steps_does_not_decide() -> None:
    losses = [valley(rate) + (0.05 if n % 2 else -0.05) for n, rate in enumerate(RATES)]
    losses[5] -= 1.0
    losses[6] += 1.0
    found = suggest(RATES, losses)
    assert found.rate is not None and 3e-4 < found.rate < 3e-3


def test_where_the_loss_never_falls_nothing_is_suggested() -> None:
    found = suggest(RATES, [5.0 + 0.001 * (n % 3) for n in range(100)])
    assert found.rate is None and "never fell" in found.how


@pytest.mark.parametrize("end", [math.nan, math.inf, 50.0])
def test_a_loss_that_diverges_ends_the_sweep(end: float) -> None:
    losses = [5.0 - 0.02 * n for n in range(60)] + [end]
    found = suggest(RATES[:61], losses)
    assert found.diverged == RATES[60] and found.rate is not None
    assert found.lowest < RATES[60] and len(found.smoothed) == 60
    early = suggest(RATES[:2], [5.0, end])
    assert early.rate is None and "diverged" in early.how


def test_the_plot_is_whole_and_escapes_its_words() -> None:
    import xml.etree.ElementTree as tree

    line = Line("a < b", [(1e-5, 3.0), (1e-3, 2.0)])
    root = tree.fromstring(plot("t & u", "rate", "loss", [line], [(1e-4, "here")]))
    words = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a < b", "t & u", "here", "1e-4", "1e-5", "1e-3"} <= set(words)
    (path,) = root.iter("{http://www.w3.org/2000/svg}polyline")
    (x0, y0), (x1, y1) = (map(float, p.split(",")) for p in path.get("points").split())
    assert x0 < x1 and y0 < y1  # the loss falls: further down the page
