"""t-tests, bootstrap and effect sizes, against known values and scipy's."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lumina.measure.significance import (
    bootstrap,
    holm,
    incomplete_beta,
    paired_bootstrap,
    paired_t_test,
    size_in_words,
    student_quantile,
    student_tail,
    welch_t_test,
)

SLEEP = (
    np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]),
    np.array([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]),
)
"""Hours of sleep with two drugs: Student, 1908, and R's data set of that name."""


@pytest.mark.covers("EVL-03: statistical_test t_test", "EVL-03: confidence_level 0.95")
def test_the_paired_t_test_of_students_own_data() -> None:
    # R: t.test(extra ~ group, data = sleep, paired = TRUE)
    found = paired_t_test(*SLEEP)
    assert found.difference == pytest.approx(1.58)
    assert found.p_value == pytest.approx(0.002832890197384, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((0.7001142, 2.4598858), abs=1e-6)
    assert found.effect_size == pytest.approx(4.062127683382037 / math.sqrt(10))
    assert paired_t_test(*SLEEP[::-1]).difference == pytest.approx(-1.58)
    wide = paired_t_test(*SLEEP, 0.99)
    assert wide.low < found.low and wide.high > found.high


def test_welchs_t_test_of_the_same_data() -> None:
    # R: t.test(extra ~ group, data = sleep)
    found = welch_t_test(*SLEEP)
    assert found.p_value == pytest.approx(0.07939414018735, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((-0.2054832, 3.3654832), abs=1e-6)


@pytest.mark.covers("EVL-03: effect sizes")
def test_hedges_g_is_cohens_d_without_its_bias() -> None:
    one, two = np.array([1.0, 2.0, 3.0, 4.0]), np.array([3.0, 4.0, 5.0, 8.0])
    pooled = math.sqrt((one.var(ddof=1) + two.var(ddof=1)) / 2)
    d = (two.mean() - one.mean()) / pooled
    exact = math.gamma(3) / (math.sqrt(3) * math.gamma(2.5))
    found = welch_t_test(one, two)
    assert found.effect_size == pytest.approx(d * exact)
    words = [size_in_words(x) for x in (None, 0.1, -0.3, 0.5, -2.0)]
    assert words == ["-", "negligible", "small", "medium", "large"]


def test_the_distribution_of_students_t() -> None:
    # With one degree of freedom it is Cauchy's, with two it has a closed form.
    for t in (0.0, 0.3, 1.0, 12.706204736432095, 500.0):
        assert student_tail(t, 1) == pytest.approx(1 - 2 * math.atan(t) / math.pi)
        assert student_tail(t, 2) == pytest.approx(1 - t / math.sqrt(2 + t * t))
    assert student_quantile(0.95, 1) == pytest.approx(12.706204736432095)
    assert student_quantile(0.95, 9) == pytest.approx(2.2621571628540993)
    assert student_quantile(0.99, 1e6) == pytest.approx(2.5758, abs=1e-4)
    assert incomplete_beta(2, 3, 0.25) == pytest.approx(0.26171875)
    assert student_tail(math.inf, 3) == 0.0


def test_it_is_as_scipy_has_it() -> None:
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(3)
    for count in (2, 3, 17, 400):
        one, two = random.normal(size=(2, count)) * [[1.0], [3.0]] + [[0.0], [0.4]]
        paired = stats.ttest_rel(two, one)
        found = paired_t_test(one, two, 0.9)
        assert found.p_value == pytest.approx(paired.pvalue, rel=1e-8)
        ends = paired.confidence_interval(0.9)
        assert (found.low, found.high) == pytest.approx((ends.low, ends.high))
        longer = np.append(two, random.normal(size=3))
        welch = stats.ttest_ind(longer, one, equal_var=False)
        other = welch_t_test(one, longer)
        assert other.p_value == pytest.approx(welch.pvalue, rel=1e-8)


def test_what_does_not_vary_is_certain() -> None:
    same = np.array([1.0, 2.0, 3.0])
    for test in (paired_t_test, welch_t_test):
        assert test(same, same).p_value == pytest.approx(1.0)
    shifted = paired_t_test(same, same + 0.5)
    assert (shifted.p_value, shifted.effect_size) == (0.0, None)
    assert (shifted.low, shifted.high) == (0.5, 0.5)
    flat = welch_t_test(np.ones(3), np.ones(4))
    assert (flat.p_value, flat.effect_size) == (1.0, None)


def test_the_bootstrap_agrees_with_the_t_test_where_both_hold() -> None:
    random = np.random.default_rng(1)
    one = random.normal(size=200)
    two = one + random.normal(0.15, 1.0, size=200)
    exact = paired_t_test(one, two)
    found = paired_bootstrap(
        one[:, None], two[:, None], figure=lambda values: float(values.mean())
    )
    assert found.difference == pytest.approx(exact.difference)
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=0.02)
    assert found.p_value == pytest.approx(exact.p_value, abs=0.01)
    assert found.effect_size == pytest.approx(exact.effect_size)
    apart, welch = bootstrap(one, two), welch_t_test(one, two)
    assert (apart.low, apart.high) == pytest.approx((welch.low, welch.high), abs=0.03)
    assert apart.p_value == pytest.approx(welch.p_value, abs=0.03)


def test_the_bootstrap_of_a_figure_that_is_no_mean() -> None:
    # Perplexity-like: a ratio of sums. The second is twice the first everywhere.
    first = np.array([[1.0, 2.0], [3.0, 1.0], [2.0, 2.0]])
    second = first * [2.0, 1.0]
    found = paired_bootstrap(
        first, second, figure=lambda v: float(v[:, 0].sum() / v[:, 1].sum()), draws=99
    )
    assert found.difference == pytest.approx(6 / 5)
    assert found.p_value == pytest.approx(2 / 100) and found.effect_size is None
    assert found.low > 0


def test_holms_chances() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
