"""Checks of settings that were chosen badly: what they notice, and what they do not."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from lumina.plan.count import trainable
from lumina.plan.schedule import learning_rate_at, mean_rate
from lumina.train.health.checks.large_epsilon import LargeEpsilon
from lumina.train.health.checks.low_rate import LowRate
from lumina.train.health.checks.short_second_moment import ShortSecondMoment
from lumina.train.health.watching import Watching
from programs import tiny_plan

STEPS = 160


def plan(**more):
    spec = replace(tiny_plan().spec, hidden_size=64, init_std=0.02)
    values = {"steps": STEPS, "warmup_steps": 8, "spec": spec, "max_grad_norm": 1.0}
    return tiny_plan(**values | more)


def rated(rate, **more):
    more = {"decay_steps": more.get("steps", STEPS) - 8} | more
    return plan(learning_rate=rate, min_lr=rate / 10, **more)


def shown(check, rows):
    """The first alarm, with its step; None where there is none."""
    for step, row in enumerate(rows, 1):
        if alarm := check.see({"step": step, **row}):
            return step, alarm
    return None


def falling(first=5.7, by=0.97, steps=STEPS):
    return [{"loss": first * by**step, "grad_norm": 1.0} for step in range(steps)]


def test_the_mean_rate_is_that_of_the_schedule():
    short, long = rated(1e-2), rated(1e-2, steps=3000, decay_steps=2992)
    for one in (short, long):
        rates = [learning_rate_at(one, step) for step in range(one.steps)]
        assert mean_rate(one) == pytest.approx(sum(rates) / one.steps, rel=2e-3)


@pytest.mark.parametrize(
    ("rate", "steps", "found"),
    [
        (6e-3, 160, False),
        (6e-4, 160, True),  # a tenth
        (6e-3, 40, True),  # a batch of four times the size
        (6e-3, 30, False),  # a trial, from which nothing is hoped
        (6e-4, 2000, False),  # many steps come far
        (3e-6, 10**6, True),  # so small a peak helps at no length
    ],
)
def test_a_rate_is_low_where_the_run_cannot_come_far(rate, steps, found):
    decided = rated(rate, steps=steps)
    alarm = shown(LowRate(decided), falling())
    assert (alarm is not None) is found
    if alarm:
        step, said = alarm
        assert step == 5 and said.confidence >= 0.9
        # The rate that it asks for is one that it would not call low.
        factor = said.evidence["factor"]
        better = rated(rate * factor, steps=steps)
        peak = said.evidence["peak"] * factor
        bounded = factor == LowRate.most or peak == pytest.approx(LowRate.most_peak)
        assert factor > 1 and peak <= 4.001
        assert bounded or shown(LowRate(better), falling()) is None


def test_how_much_is_missing():
    decided = rated(6e-4)
    _, said = shown(LowRate(decided), falling())
    total = sum(learning_rate_at(decided, step) for step in range(STEPS))
    reach = total * math.sqrt(64) / 0.02
    assert said.evidence["reach"] == pytest.approx(reach, rel=1e-3)
    assert said.evidence["factor"] == pytest.approx(180 / reach, rel=1e-3)
    assert said.evidence["peak"] == pytest.approx(0.24)


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        ({"optimizer": "sgd"}, falling()),
        ({"lr_transfer": {"mode": "mup"}}, falling()),
        ({}, falling(first=3.0)),  # a model that knows something
        ({}, falling(by=0.9)),  # it learns fast as it is
    ],
)
def test_a_low_rate_is_no_trouble_everywhere(changes, rows):
    assert shown(LowRate(rated(6e-4)), falling())
    assert shown(LowRate(rated(6e-4, **changes)), rows) is None


def test_wide_first_weights_ask_for_no_higher_rate():
    wide = replace(plan().spec, init_std=0.2)
    assert shown(LowRate(rated(6e-3, spec=wide)), falling()) is None


def gradients(size, **sizes):
    """A row in which all roles have gradients of this root mean square."""
    elements = {}
    for one in trainable(plan().spec, ()):
        elements[one.role] = elements.get(one.role, 0) + one.size
    norms = {role: sizes.get(role, size) * n**0.5 for role, n in elements.items()}
    total = math.sqrt(sum(norm**2 for norm in norms.values()))
    row = {f"group.{role}.gradient_norm": norm for role, norm in norms.items()}
    return row | {"loss": 3.0, "grad_norm": total}


@pytest.mark.parametrize(
    ("eps", "size", "found"),
    [(1e-8, 1e-4, False), (1e-4, 1e-3, False), (1e-4, 2e-4, True), (1e-2, 1e-4, True)],
)
def test_an_epsilon_is_large_beside_gradients(eps, size, found):
    alarm = shown(LargeEpsilon(plan(eps=eps)), [gradients(size)] * 10)
    assert (alarm is not None) is found
    if alarm:
        step, said = alarm
        assert step == LargeEpsilon.latest
        assert said.evidence["root_mean_square"] == pytest.approx(size)
        assert said.confidence == pytest.approx(1 - 0.2 / (3 * eps / size))


def test_an_epsilon_counts_beside_what_the_clip_leaves():
    """And in most of the parameters: the head alone is not enough."""
    large = gradients(1e-3)
    limit = large["grad_norm"] / 10
    clipped = plan(eps=1e-4, max_grad_norm=limit)
    assert shown(LargeEpsilon(clipped), [large] * 5)
    assert not shown(LargeEpsilon(plan(eps=1e-4, max_grad_norm=0.0)), [large] * 5)
    one = gradients(1e-3, norm=1e-5)
    assert not shown(LargeEpsilon(plan(eps=1e-4, max_grad_norm=0.0)), [one] * 5)


def test_other_optimizers_have_no_epsilon():
    assert shown(LargeEpsilon(plan(eps=1e-2)), [gradients(1e-4)] * 5)
    assert not shown(
        LargeEpsilon(plan(eps=1e-2, optimizer="sgd")), [gradients(1e-4)] * 5
    )


@pytest.mark.parametrize(
    ("beta1", "beta2", "found"),
    [(0.9, 0.95, False), (0.9, 0.82, False), (0.9, 0.5, True), (0.6, 0.5, False)],
)
def test_a_second_moment_is_short_beside_the_first(beta1, beta2, found):
    check = ShortSecondMoment(plan(beta1=beta1, beta2=beta2))
    alarm = shown(check, falling(steps=3))
    assert (alarm is not None) is found
    if alarm:
        assert alarm[0] == 1 and alarm[1].confidence >= 0.9
    sgd = plan(beta1=beta1, beta2=beta2, optimizer="sgd")
    assert shown(ShortSecondMoment(sgd), falling(steps=3)) is None


@pytest.mark.parametrize(
    ("wrong", "control", "mended", "rows"),
    [
        ({"eps": 1e-2}, "eps", 1e-8, [gradients(1e-4)] * 6),
        ({"beta2": 0.5}, "beta2", 0.95, falling(steps=6)),
    ],
)
def test_what_was_mended_is_no_longer_found_also_after_a_resume(
    wrong, control, mended, rows
):
    name = {"eps": "large_epsilon", "beta2": "short_second_moment"}[control]
    watching = Watching.of(plan(**wrong))

    def found(step):
        seen = watching.see({"step": step, "skipped": 0, **rows[step - 1]})
        return name in {one.anomaly for one in seen}

    assert any(found(step) for step in range(1, 6))
    watching.changed(control, mended)
    assert not found(6)
    again, held = Watching.of(plan(**wrong)), watching.state()
    watching = again
    watching.load(held)
    assert not found(6)
    watching.changed(control, wrong[control])
    assert found(6)
