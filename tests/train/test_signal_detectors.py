"""Detectors of early signals, on made runs with the trouble and without."""

from __future__ import annotations

import math
import random

import pytest

from lumina.train.health.watching import Watching
from programs import tiny_plan

WORDS = 310
FAR = 2 * math.log(WORDS)  # 11.5


def found(rows, name):
    watching = Watching.of(tiny_plan(steps=len(rows), warmup_steps=10))
    return [one for row in rows for one in watching.see(row) if one.anomaly == name]


def rows(steps, **columns):
    """Rows whose columns are functions of the step and of a draw."""
    draw = random.Random(steps)
    return [
        {"step": step, "tokens": 512 * step, "loss": 2.0, "grad_norm": 1.0}
        | {key: value(step, draw) for key, value in columns.items()}
        for step in range(1, steps + 1)
    ]


def drifting(by, start=6.0, noise=0.3):
    return lambda step, draw: start + by * step + draw.gauss(0, noise)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("noise", [0.01, 0.3])
def test_log_z_that_drifts_away_is_found_before_it_is_very_far(sign, noise):
    made = rows(300, log_z=drifting(0.05 * sign, 6.0 * sign, noise))
    first = found(made, "log_z_drift")[0]
    assert FAR < abs(first.evidence["now"]) < 1.7 * FAR
    assert abs(first.evidence["before"]) < abs(first.evidence["now"])
    assert 0.6 <= first.confidence < 0.9
    assert f"{first.evidence['now']:.3g}" in first.text


@pytest.mark.parametrize(
    "log_z",
    [
        drifting(0.0),
        drifting(0.01),  # moves, and stays within the bound
        drifting(0.0, start=40.0),  # far away, and stays there
        drifting(-0.1, start=40.0),  # on its way back
        lambda step, draw: 8 + 2 * math.log(step) * 0.2 + draw.gauss(0, 0.3),
        lambda step, draw: None,
        lambda step, draw: math.nan,
    ],
)
def test_log_z_that_stays_or_comes_back_is_no_drift(log_z):
    assert not found(rows(300, log_z=log_z), "log_z_drift")


def test_strays_and_what_is_not_finite_do_not_move_log_z():
    made = rows(300, log_z=drifting(0.0))
    for row in made[100:280:3]:
        row["log_z"] = 300.0
    for row in made[101:280:9]:
        row["log_z"] = math.inf
    assert not found(made, "log_z_drift")
    same = rows(300, log_z=drifting(0.0))
    kept = Watching.of(tiny_plan(steps=300, warmup_steps=10))
    for row in made:
        kept.see(row)
    assert max(kept.checks["log_z_drift"].memory["values"]) < 10
    assert not found(same, "log_z_drift")
    for row in made[100:]:  # a new level is one, and no drift from the old one
        row["log_z"] = 40.0
    assert not found(made, "log_z_drift")


def groups(steps):
    level = {"embedding": 0.3, "matrix": 0.5, "norm": 0.02}

    def column(role):
        return lambda step, draw: level[role] * math.exp(draw.gauss(0, 0.3))

    return rows(
        steps, **{f"group.{role}.gradient_norm": column(role) for role in level}
    )


def test_a_small_group_is_found_that_the_whole_norm_hides():
    made = groups(300)
    assert not found(made, "group_norm_outlier")
    for row in made[150:156]:
        row["group.norm.gradient_norm"] = 0.25
    alarms = found(made, "group_norm_outlier")
    assert [one.step for one in alarms] == [153, 154, 155, 156]
    assert alarms[0].text.startswith("the gradient norm of norm is 0.25")
    assert alarms[0].evidence["median"] == pytest.approx(0.02, rel=0.2)
    assert alarms[0].evidence["steps"] == 3 and alarms[0].confidence < 0.9
    assert not found(made, "exploding_gradients")
    for row in made[152:156]:
        row["group.embedding.gradient_norm"] = 30.0
    assert "embedding is 30" in found(made, "group_norm_outlier")[-1].text
    assert found(made, "group_norm_outlier")[-1].text.endswith("norm too")


def test_two_large_gradients_of_a_group_are_no_alarm_and_do_not_count():
    made = groups(300)
    for at in range(60, 280, 4):
        for row in made[at : at + 2]:
            row["group.norm.gradient_norm"] = 50.0
    made[100]["group.norm.gradient_norm"] = math.inf
    assert not found(made, "group_norm_outlier")
    for row in made[290:294]:  # the window still has the usual ones alone
        row["group.norm.gradient_norm"] = 0.25
    assert [one.step for one in found(made, "group_norm_outlier")] == [293, 294]


def test_a_group_that_stays_larger_is_told_of_for_half_a_window():
    made = groups(300)
    for row in made[100:]:
        row["group.norm.gradient_norm"] *= 50
    steps = [one.step for one in found(made, "group_norm_outlier")]
    assert steps[0] == 103 and len(steps) <= 25


def test_a_group_of_a_model_that_learns_is_told_of_and_left_alone():
    """A loss that falls in the steps of the alarm: something new is being learned."""
    made = groups(300)
    for at, row in enumerate(made):
        row["loss"] = 3.2 - 0.03 * max(at - 140, 0) + 0.01 * (at % 3)
        if 160 <= at < 166:
            row["group.embedding.gradient_norm"] = 30.0
    steps = {one.step: one.confidence for one in found(made, "group_norm_outlier")}
    assert list(steps) == [163, 164, 165, 166] and set(steps.values()) == {0.55}
    for row in made:
        row["loss"] = 3.2 + 0.01 * (row["step"] % 3)
    assert min(o.confidence for o in found(made, "group_norm_outlier")) > 0.6


def test_gradients_that_no_clip_reaches_are_told_of_and_left_alone():
    """Below half of the norm that the run clips to, whatever that is by now."""

    def surest(norm, clip, later=None):
        plan = tiny_plan(steps=300, warmup_steps=10, max_grad_norm=clip)
        watching, sure = Watching.of(plan), 0.0
        made = groups(300)
        for row in made[150:156]:
            row["group.norm.gradient_norm"] = norm
        for row in made:
            if later is not None and row["step"] == 140:
                watching.changed("max_grad_norm", later)
            for one in watching.see(row):
                if one.anomaly == "group_norm_outlier":
                    sure = max(sure, one.confidence)
        return sure

    for clip in (1.0, 0.0):  # without a clip the first would be 1
        assert surest(0.49, clip) == 0.55 and surest(0.51, clip) > 0.6
    assert surest(0.9, 2.0) == 0.55 and surest(1.1, 2.0) > 0.6
    assert surest(0.4, 1.0, later=0.5) > 0.6 and surest(0.2, 1.0, later=0.5) == 0.55


def test_what_a_detector_remembers_is_taken_up_again():
    made = rows(300, log_z=drifting(0.2))
    for row, more in zip(made, groups(300), strict=True):
        row |= more
    for row in made[150:156]:
        row["group.matrix.gradient_norm"] = 40.0
    plan = tiny_plan(steps=300, warmup_steps=10)
    whole, first, second = (Watching.of(plan) for _ in range(3))
    wanted = [one for row in made for one in whole.see(row)]
    halves = [one for row in made[:152] for one in first.see(row)]
    second.load(first.state())
    halves += [one for row in made[152:] for one in second.see(row)]
    assert halves == wanted
    assert {one.anomaly for one in wanted} >= {"log_z_drift", "group_norm_outlier"}
