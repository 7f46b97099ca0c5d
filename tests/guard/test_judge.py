"""What the guard trusts: verdicts about measured levers, and the tests behind them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from levers_found import findings_of
from lumina.guard.findings import Findings
from lumina.guard.judge import judge, trusted
from lumina.guard.statistics import (
    above,
    beta_share,
    exact_bounds,
    holm,
    t_quantile,
    t_tail,
)


def _with(found: Findings, **changes: Any) -> Findings:
    return replace(found, numbers=[replace(found.numbers[0], **changes)])


def verdict(found: Findings) -> tuple[bool, str]:
    one = judge([found])[found.lever]
    return one.trusted, one.text


def test_the_tests_are_those_of_the_tables() -> None:
    # Student's t and the beta distribution, of printed tables and of scipy 1.15.
    assert t_tail(2.015, 5) == pytest.approx(0.05, abs=1e-5)
    assert t_tail(-2.015, 5) == pytest.approx(0.95, abs=1e-5)
    assert t_quantile(0.025, 10) == pytest.approx(2.228, abs=1e-3)
    assert beta_share(0.3, 2, 3) == pytest.approx(0.3483, abs=1e-12)
    # The rule of three, and a share that has both bounds.
    assert exact_bounds(59, 59)[0] == pytest.approx(0.025 ** (1 / 59))
    assert exact_bounds(3, 386) == pytest.approx((0.0016057, 0.0225440), abs=1e-6)
    assert above([1.0, 1.0], 0.5) == 0 and above([1.0, 1.0], 1.0) == 1
    assert above([3.0], 0.5) == 1


def test_holm_steps_down_and_stops_at_the_first_that_stays() -> None:
    assert holm({"a": 0.01, "b": 0.02, "c": 0.04}, 0.05) == {"a", "b", "c"}
    assert holm({"a": 0.01, "b": 0.03, "c": 0.04}, 0.05) == {"a"}
    assert holm({"a": 0.02}, 0.05) == {"a"} and not holm({"a": 0.06}, 0.05)


def test_a_right_lever_is_trusted_and_so_after_a_way_through_json() -> None:
    found = findings_of()
    assert verdict(found)[0]
    assert Findings.from_dict(found.to_dict()) == found


def test_what_speaks_against_a_lever_is_said() -> None:
    right = findings_of()
    slopes = right.numbers[0].slopes
    cases = {
        "of its norm": _with(right, errors={"w": (0.03, 0.01), "v": (0.01, 0.01)}),
        "times what it should be": _with(
            right, tensor_slopes={"w": [1.01 + x - 1 for x in slopes]}
        ),
        "not finite": _with(right, broken="the loss"),
        "the loss is off": _with(right, losses=[(5.0, 5.001, 5.05)] * 8),
        "too few batches": _with(right, slopes=slopes[:1]),
        "steps of training": replace(right, paired=[(5.0, 5.0, 5.1)] * 20),
        "only 3 steps": replace(right, paired=[(5.0, 5.0, 5.0)] * 3),
        "memory grew": replace(right, held=[(0, 9000 * n) for n in range(8)]),
        "after saving": replace(right, reloaded=math.inf),
        "not saved": replace(right, reloaded=None),
        "not timed": replace(right, ratios=[]),
        "no gradients": replace(right, numbers=[]),
        "it fell over": replace(right, failure="it fell over"),
        "within 0.3% is not proven": _with(
            right, slopes=[1.004 + x - 1 for x in slopes]
        ),
        "above 1.00x is not proven": replace(right, ratios=[0.9, 0.91, 0.89] * 3),
    }
    for said, found in cases.items():
        good, text = verdict(found)
        assert not good and said in text, (said, text)


def test_a_factor_on_all_gradients_is_seen_through_noise() -> None:
    right = findings_of()
    off = [1.01 * x for x in right.numbers[0].slopes]
    assert not verdict(_with(right, slopes=off))[0]
    # fp8 is a class of its own, with one per cent.
    inside = _with(right, slopes=[1.005 * x for x in right.numbers[0].slopes])
    assert not verdict(inside)[0]
    assert verdict(replace(inside, claim="fp8"))[0]


def test_speed_has_to_be_proven_with_compiling_charged() -> None:
    right = findings_of()
    assert verdict(replace(right, start_seconds=100.0))[0]
    good, text = verdict(replace(right, start_seconds=300.0))
    assert not good and "300.0 s of compiling" in text
    # Faster by more than nothing will do for a lever, and for a bundle it will not.
    little = [1.02, 1.021, 1.019, 1.02]
    assert verdict(replace(right, ratios=little))[0]
    assert not verdict(replace(right, ratios=little, lever="one+two"))[0]
    noisy = [1.4, 0.8, 1.3, 0.9, 1.5, 0.8]
    assert not verdict(replace(right, ratios=noisy))[0]
    # What saves memory need not be faster.
    assert verdict(replace(right, ratios=[], faster=False))[0]


def test_of_many_levers_each_has_to_be_surer() -> None:
    weak = {"ratios": [1.03, 1.0, 1.03, 0.996, 1.02, 1.01], "step_seconds": (1.0, 1.0)}
    alone = judge([findings_of("weak", **weak)])
    assert alone["weak"].trusted and 0.01 < alone["weak"].p < 0.05
    others = [findings_of(f"other {n}", **weak) for n in range(4)]
    together = judge([findings_of("weak", **weak), *others, findings_of("strong")])
    assert trusted(together) == ("strong",)
    assert "among 6 levers" in together["weak"].text
