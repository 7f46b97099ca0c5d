"""Learning rates at the corners of every schedule."""

from __future__ import annotations

import itertools
import math

import pytest

from lumina.plan.schedule import learning_rate_at
from programs import tiny_plan


def rates(**changes):
    values = {"steps": 100, "warmup_steps": 10, "learning_rate": 1.0, "min_lr": 0.1}
    plan = tiny_plan(**values | changes)
    return [learning_rate_at(plan, step) for step in range(plan.steps)]


@pytest.mark.parametrize("shape", ["constant", "linear", "cosine", "wsd"])
def test_warm_up_rises_in_equal_steps_to_the_peak(shape):
    found = rates(lr_scheduler=shape)
    assert found[:10] == pytest.approx([n / 10 for n in range(1, 11)])
    assert max(found) == 1.0


@pytest.mark.covers("TRN-03: --min-lr")
@pytest.mark.parametrize("shape", ["linear", "cosine", "wsd"])
def test_the_last_step_runs_at_the_floor(shape):
    found = rates(lr_scheduler=shape)
    assert found[-1] == pytest.approx(0.1)
    assert all(b <= a for a, b in itertools.pairwise(found[9:]))


@pytest.mark.covers("TRN-03: none")
def test_constant_stays():
    assert set(rates(lr_scheduler="constant", warmup_steps=0)) == {1.0}


@pytest.mark.covers("TRN-03: cosine", "TRN-03: linear")
def test_linear_and_cosine_at_their_middle():
    # 90 steps of decay: after 45 of them both are half-way down.
    assert rates(lr_scheduler="linear")[54] == pytest.approx(0.55)
    assert rates(lr_scheduler="cosine")[54] == pytest.approx(0.55)
    quarter = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 3))
    assert rates(lr_scheduler="cosine")[39] == pytest.approx(quarter)


def test_wsd_is_stable_until_its_decay():
    found = rates(lr_scheduler="wsd", decay_steps=20)
    assert set(found[10:80]) == {1.0}
    assert found[80] == pytest.approx(1.0 - 0.9 / 20)
    assert found[89] == pytest.approx(0.55)


@pytest.mark.parametrize("shape", ["constant", "linear", "cosine", "wsd"])
def test_without_warm_up_the_first_step_is_no_smaller_than_the_next(shape):
    found = rates(lr_scheduler=shape, warmup_steps=0, decay_steps=20)
    assert found[0] >= found[1] > 0
    assert found[0] == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("shape", ["constant", "linear", "cosine", "wsd"])
def test_runs_of_one_and_two_steps(shape):
    for steps in (1, 2):
        found = rates(steps=steps, warmup_steps=0, decay_steps=1, lr_scheduler=shape)
        assert len(found) == steps and all(0.0999 < rate <= 1.0 for rate in found)


def test_a_floor_above_the_peak_gives_way():
    assert set(rates(learning_rate=0.05, warmup_steps=0)) == {0.05}


def test_past_the_end_the_floor_holds():
    plan = tiny_plan(steps=10, warmup_steps=0, learning_rate=1.0, min_lr=0.1)
    assert learning_rate_at(plan, 25) == pytest.approx(0.1)


def test_raised_steps_give_the_longer_runs_schedule():
    """A pure function of Plan and step: nothing of the shorter run is left."""
    short, long = rates(steps=50), rates(steps=100)
    assert short[:10] == long[:10] and short[30] < long[30]
