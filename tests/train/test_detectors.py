"""Each detector on a made run, with the trouble that it is for and without."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from lumina.model.spec import ModSpec
from lumina.train.health.watching import Watching
from programs import tiny_plan


def plan(steps, **more):
    values = {"learning_rate": 1e-3, "parameters": 10**6}
    return tiny_plan(steps=steps, warmup_steps=max(steps // 20, 3), **values | more)


def rows(steps, seed=0, noise=0.02):
    draw = random.Random(seed)
    return [
        {
            "step": step,
            "tokens": 512 * step,
            "loss_tokens": 512,
            "loss": (1.5 + 4 * step**-0.4) * (1 + draw.gauss(0, noise)),
            "grad_norm": 0.5 + draw.uniform(-0.1, 0.1),
            "token_accuracy": 0.5 + draw.gauss(0, 0.02),
            "learning_rate": 1e-3,
            "skipped": 0,
            "agreed_memory_share": 0.5,
            "agreed_step_seconds": None if step == 1 else 0.1,
        }
        for step in range(1, steps + 1)
    ]


def findings(made, decided=None, evaluations=None):
    watching, found = Watching.of(decided or plan(len(made))), []
    for row in made:
        found += watching.see(row)
        if metrics := (evaluations or {}).get(row["step"]):
            found += watching.see_evaluation(row["step"], metrics)
    return found


def named(*shown, **more):
    return {one.anomaly for one in findings(*shown, **more) if one.new}


def surest(found, name):
    return max((one.confidence for one in found if one.anomaly == name), default=0)


@pytest.mark.parametrize(
    "steps", [60, 300, pytest.param(5000, marks=pytest.mark.thorough)]
)
def test_a_run_without_trouble_raises_no_alarm(steps):
    assert [named(rows(steps, seed)) for seed in range(2)] == [set()] * 2


@pytest.mark.covers("ORC-02", "ORC-03")
@pytest.mark.parametrize("steps", [60, 600])
def test_a_spike_that_heals_gives_too_little_confidence_for_any_action(steps):
    at = steps // 2
    made = rows(steps)
    made[at]["loss"] *= 3
    found = findings(made)
    assert {one.anomaly for one in found} == {"loss_spike"}
    assert [one.step for one in found] == [at + 1]
    assert surest(found, "loss_spike") == 0.5  # the mildest action needs 0.6
    made = rows(steps)
    for row in made[at : at + 8]:
        row["loss"] *= 1.6
    found = findings(made)
    assert surest(found, "loss_spike") > 0.8
    assert surest(found, "severe_loss_spike") >= 0.9
    severe = next(one for one in found if one.anomaly == "severe_loss_spike")
    assert severe.step == at + 3


def test_two_high_steps_are_no_spike_and_a_small_lasting_one_is_not_severe():
    made = rows(600)
    for row in made[300:302]:
        row["loss"] *= 1.12
    assert named(made) == set()
    for row in made[300:310]:
        row["loss"] = row["loss"] / (1.12 if row["step"] <= 302 else 1) * 1.1
    assert named(made) == {"loss_spike"}


def test_what_stands_out_does_not_enter_the_window():
    """A second spike is found right after a first that is as high."""
    made = rows(600)
    for row in [*made[300:306], *made[312:318]]:
        row["loss"] *= 2
    steps = {one.step for one in findings(made) if one.anomaly == "severe_loss_spike"}
    assert {303, 306, 315, 318} <= steps and not steps & set(range(307, 315))
    long = rows(600)
    for row in long[300:324]:
        row["loss"] *= 2
    for row in long[326:331]:  # nine deviations of the steps before the first
        row["loss"] *= 1.2
    steps = {one.step for one in findings(long) if one.anomaly == "severe_loss_spike"}
    assert {329, 330, 331} <= steps
    lost = rows(600)
    for row in lost[300:340]:
        row |= {"loss": float("nan"), "grad_norm": float("inf")}
    assert named(lost) == set()


@pytest.mark.covers("ORC-04")
def test_gradients_explode_beyond_100_or_beyond_what_is_usual():
    made = rows(300)
    for row in made[150:155]:
        row["grad_norm"] = 4.0
    found = findings(made)
    assert {one.anomaly for one in found} == {"exploding_gradients"}
    assert min(one.step for one in found) == 153
    always = [row | {"grad_norm": 120.0} for row in rows(300)]
    assert "exploding_gradients" in named(always)
    assert named([row | {"grad_norm": 90.0} for row in rows(300)]) == set()
    once = rows(300)
    once[150]["grad_norm"] = 500.0
    assert surest(findings(once), "exploding_gradients") == 0.5


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_more_steps_in_a_row_are_not_finite_the_surer(dtype):
    made = rows(100)
    for count, row in enumerate(made[50:55], 1):
        row |= {"loss": None, "grad_norm": None, "skipped": count}
    for row in made[55:]:
        row["skipped"] = 5
    found = findings(made, plan(100, compute_dtype=dtype))
    usual = 2 if dtype == "float16" else 0  # the loss scale is looked for
    found = [one for one in found if one.anomaly == "nonfinite"]
    assert [one.step for one in found] == list(range(51 + usual, 56))
    wanted = [1 - 0.5**n for n in range(1, 6 - usual)]
    assert [one.confidence for one in found] == wanted
    # A run that goes on from another one's count has skipped nothing yet.
    assert named([row | {"skipped": 7} for row in rows(100)[1:]]) == set()


@pytest.mark.covers("ORC-05")
@pytest.mark.parametrize("length", [2, 16])
def test_swings_of_the_loss_are_told_from_noise(length):
    made = rows(600)
    for row in made[300:]:
        row["loss"] *= 1 + 0.25 * (1 if row["step"] % length < length / 2 else -1)
    assert "oscillation" in named(made)
    noisy = rows(600)
    draw = random.Random(3)
    for row in noisy[300:]:
        row["loss"] *= 1 + draw.uniform(-0.25, 0.25)
    assert "oscillation" not in named(noisy)


@pytest.mark.covers("ORC-06")
def test_an_accuracy_that_drops_is_forgetting():
    made = rows(300)
    for row in made[150:]:
        row["token_accuracy"] *= 0.7
    [*_, first] = reversed(findings(made))
    assert first.anomaly == "forgetting" and 150 < first.step <= 160
    judged = {100: {"eval_accuracy": 0.5}, 200: {"eval_accuracy": 0.4}}
    assert named(rows(300), evaluations=judged) == {"forgetting"}
    judged = {100: {"source.a.eval_loss": 2.0}, 200: {"source.a.eval_loss": 2.4}}
    assert named(rows(300), evaluations=judged) == {"forgetting"}
    judged = {100: {"eval_accuracy": 0.5}, 200: {"eval_accuracy": 0.45}}
    assert named(rows(300), evaluations=judged) == set()


def test_overfitting_needs_a_training_loss_that_falls():
    judged = {at: {"eval_loss": 2 + abs(at - 150) / 300} for at in range(50, 301, 50)}
    found = findings(rows(300), evaluations=judged)
    assert [(one.anomaly, one.step) for one in found] == [
        ("overfitting", 250),
        ("overfitting", 300),
    ]
    rising = rows(300)
    for row in rising[150:]:
        row["loss"] = 2.5
    assert "overfitting" not in named(rising, evaluations=judged)
    level = {at: {"eval_loss": 2.0} for at in range(50, 301, 50)}
    assert named(rows(300), evaluations=level) == set()


@pytest.mark.covers("ORC-11: loss variance <0.001 over 50 steps")
def test_neither_plateau_nor_a_low_rate_is_found_in_warm_up():
    steps = 400
    level = rows(steps, noise=0.002)
    for row in level:
        row["loss"] = 4.0 + (row["step"] % 7) / 1000
    assert "plateau" in named(level)
    assert min(one.step for one in findings(level)) <= 100
    warm = plan(steps).replace(warmup_steps=steps)
    assert named(level, warm) == set()
    slow = rows(steps)
    for row in slow:
        row["loss"] = 6.0 - 0.2 * row["step"] / steps + (row["step"] % 5) / 500
    assert "slow_learning" in named(slow)
    assert "slow_learning" not in named(slow, warm)
    for row in slow[:3]:  # thrown up by a rate far too high, the loss comes down again
        row["loss"] = 3.0
    assert "slow_learning" not in named(slow)


@pytest.mark.parametrize("steps", [60, 1200])
def test_batches_that_repeat_themselves_are_told_of(steps):
    made = rows(steps)
    for row in made[steps // 2 : steps // 2 + 3]:
        row["loss"] *= 0.4
    found = [one for one in findings(made) if one.anomaly == "repeated_data"]
    assert [round(one.confidence, 3) for one in found] == [0.5, 0.75, 0.833]


@pytest.mark.covers("ORC-12")
def test_underflow_is_a_gradient_as_small_as_eps_or_a_scale_that_finds_no_rest():
    tiny = [row | {"grad_norm": 5e-5} for row in rows(300)]  # 5e-8 for each parameter
    assert "underflow" in named(tiny)
    assert "underflow" not in named(tiny, plan(300, eps=1e-12))
    half = plan(300, compute_dtype="float16")
    made = rows(300)
    for row in made:
        row["skipped"] = row["step"] // 3
    assert named(made, half) == {"underflow"}


@pytest.mark.covers("ORC-10", "ORC-12")
def test_depths_that_take_too_few_or_too_many_where_a_threshold_chooses():
    decided = plan(600)
    decided = decided.replace(spec=replace(decided.spec, mod=ModSpec(layers=(0, 1))))

    def at(share):
        made = [row | {"mod.selected_ratio": [0.5, share]} for row in rows(600)]
        return named(made, decided)

    assert at(0.25) == at(0.85) == {"depth_routing"}
    assert at(0.5) == at(0.35) == at(0.75) == set()
    set_so = replace(decided.spec, mod=ModSpec(layers=(0, 1), capacity=0.25))
    decided = decided.replace(spec=set_so)
    assert at(0.25) == set()  # as it is set: the router has no choice


def test_attention_logits_that_are_large_and_grow():
    def at(first, last):
        made = rows(100)
        for row in made[::10]:
            share = row["step"] / 100
            row["largest_attention_logit"] = first + (last - first) * share
        return named(made)

    assert at(10, 900) == {"attention_logits"}
    assert at(10, 200) == at(800, 900) == set()


@pytest.mark.covers("ORC-08", "ORC-07")
def test_the_machine_is_judged_by_what_all_processes_agree_on():
    slow = rows(300)
    for row in slow[150:]:
        row["agreed_step_seconds"] = 0.25
    assert named(slow) == {"performance"}
    larger = rows(300)
    for row in larger[150:]:  # as many tokens in a second
        row |= {"agreed_step_seconds": 0.3, "tokens": 512 * (3 * row["step"] - 300)}
    assert named(larger) == set()
    for row in slow:
        row["step_seconds"], row["agreed_step_seconds"] = row["step"], 0.1
    assert named(slow) == set()
    leak = rows(120)
    for row in leak:
        row["agreed_memory_share"] = 0.3 + 0.008 * row["step"]
    assert "memory_leak" in named(leak)
    checks = Watching.of(plan(60), ranks_alike=True).checks
    assert {"performance", "memory_leak", "memory_pressure"} <= set(checks)
    assert "data_wait" not in checks


def test_a_resume_that_does_not_go_on_where_the_run_was():
    made = rows(300)
    made[150]["agreed_step_seconds"] = made[151]["agreed_step_seconds"] = None
    assert named(made) == set()
    for row in made[150:]:
        row["loss"] *= 1.2
    found = [o for o in findings(made) if o.anomaly == "resume_discontinuity"]
    assert [one.step for one in found] == [160]
    made[150] |= made[151] | {"agreed_step_seconds": 0.1, "step": 151}
    made[151]["agreed_step_seconds"] = 0.1
    assert "resume_discontinuity" not in named(made)


@pytest.mark.parametrize("steps", [60, 600])
def test_a_rate_that_makes_the_first_weights_worse_is_far_too_high(steps):
    """Loss and gradient above those of the first step; one of them alone is not it."""
    made = rows(steps)
    for row in made[1:20]:
        row["loss"] = made[0]["loss"] * (1.15 if row["step"] % 4 else 0.9)
        row["grad_norm"] *= 4
    found = findings(made)
    first = next(one for one in found if one.anomaly == "high_rate")
    assert first.step == 4 and first.severity == "error" and first.confidence > 0.8
    assert max(one.step for one in found if one.anomaly == "high_rate") < 24
    for figure in ("loss", "grad_norm"):
        sound = rows(steps)
        alone = [
            row | {figure: good[figure]} for row, good in zip(made, sound, strict=True)
        ]
        assert "high_rate" not in named(alone)


@pytest.mark.parametrize("steps", [160, 600])
def test_a_level_loss_with_gradients_that_have_gone_is_a_rate_too_high(steps):
    """Only where the model began from nothing and has learned little."""
    made = rows(steps, noise=0.01)
    vocabulary = plan(steps).spec.vocab_size
    for row in made:
        row["learning_rate"] = 0.3
        row["loss"] *= 1.1 * math.log(vocabulary) / 5.5
        if row["step"] > 12:
            row["loss"] = 0.62 * math.log(vocabulary) * (row["loss"] / 2.5) ** 0.02
            row["grad_norm"] *= 0.15
    window = min(steps // 6, 50)
    found = findings(made)
    [first, *_] = [one for one in found if one.anomaly == "high_rate"]
    assert first.step == 3 * window and 0.8 < first.confidence < 0.9
    steep = [row | {"grad_norm": 0.5} for row in made]
    trained = [row | {"loss": 0.7 * row["loss"]} for row in made]
    low = [row | {"learning_rate": 0.01} for row in made]  # it has another cause
    others = [named(one) for one in (steep, trained, low, rows(steps))]
    others.append(named(made, plan(steps).replace(optimizer="muon")))
    assert not any("high_rate" in names for names in others)


def test_a_loss_that_once_fell_is_left_to_other_checks():
    """What comes after that is a spike or a divergence."""
    made = rows(300)
    for row in made[200:220]:
        row |= {"loss": 9.0, "grad_norm": 30.0}
    assert "high_rate" not in named(made) and "severe_loss_spike" in named(made)
    # It need not have fallen far: a tenth is enough, and less is not.
    for share, told in ((0.85, False), (0.95, True)):
        made = rows(60, noise=0.0)
        first = made[0]["loss"]
        for row in made[1:]:
            late = row["step"] > 15
            row["loss"] = first * (1.3 if late else share)
            row["grad_norm"] = made[0]["grad_norm"] * (4 if late else 1)
        assert ("high_rate" in named(made)) == told
