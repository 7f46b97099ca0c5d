"""Health checks on recorded and on made sequences, with a fault and without.

`tests/recorded/health.json.xz` has the rows of five runs of 600 steps on a CPU, made by
this version: dense, with experts, on conversations in batches of two, at a high rate
without clipping, and with depths.
"""

from __future__ import annotations

import json
import lzma
import math
import random
from itertools import pairwise
from pathlib import Path

import pytest

from lumina.train.health.check import CHECKS
from lumina.train.health.checks.experts import ExpertImbalance
from lumina.train.health.watching import HOLDS, Watching
from lumina.train.health.window import falls, line
from lumina.train.rules import RunningRules, with_rules
from lumina.train.rules.training_health import TrainingHealth
from programs import tiny_plan

FILE = Path(__file__).parents[1] / "recorded" / "health.json.xz"
STEPS = 600


def recorded():
    found = {}
    for name, columns in json.loads(lzma.decompress(FILE.read_bytes())).items():
        values = zip(*columns.values(), strict=True)
        found[name] = [complete(dict(zip(columns, row, strict=True))) for row in values]
    return found


def complete(row):
    """With an even machine: a fifth of its memory, a tenth of a second."""
    fixed = {"agreed_memory_share": 0.2, "step_seconds": 0.1, "loss_tokens": 512}
    row = fixed | {"skipped": 0, "data_wait_seconds": 0.001} | row
    return {"agreed_step_seconds": row["step_seconds"]} | row


def made(seed, steps=STEPS, noise=0.08, tail=0.02):
    """A loss that falls as a power of the step, with noise that has a heavy tail."""
    draw = random.Random(seed)
    rows = []
    for step in range(1, steps + 1):
        wide = noise if draw.random() > tail else 3 * noise
        loss = 1.8 + 5 * step**-0.3 + draw.gauss(0, wide)
        norm = 0.5 * math.exp(draw.gauss(0, 0.4)) * (1 + 5 / step)
        seconds = 0.1 * math.exp(draw.gauss(0, 0.05))
        rate = 1e-3 * 0.5 * (1 + math.cos(math.pi * step / steps))
        row = {"loss": loss, "grad_norm": norm, "step_seconds": seconds}
        rows.append(complete(row | {"learning_rate": rate}))
    return rows


def plan(steps=STEPS):
    return tiny_plan(
        steps=steps, warmup_steps=10, learning_rate=1e-3, measures={"health": 1}
    )


def alarms(rows, decided=None):
    """Step and check of every alarm, and the score after every row."""
    rules = RunningRules.of(with_rules(decided or plan(len(rows))))
    found, scores = [], []
    for step, row in enumerate(rows, 1):
        rules.see(row | {"step": step, "tokens": 512 * step}, lambda _: None)
        for _, note in rules.notes():
            if "check" in note.evidence:
                found.append((note.step, note.evidence["check"]))
        scores.append(rules.metrics()["training_health_score"])
    return found, scores


def named(rows):
    return {check for _, check in alarms(rows)[0]}


def test_no_recorded_run_raises_an_alarm():
    for name, rows in recorded().items():
        found, scores = alarms(rows)
        assert (found, min(scores)) == ([], 100), name


@pytest.mark.parametrize(
    "seeds", [range(8), pytest.param(range(8, 208), marks=pytest.mark.thorough)]
)
def test_healthy_made_runs_raise_hardly_an_alarm(seeds):
    false = [found for seed in seeds if (found := alarms(made(seed))[0])]
    assert len(false) <= len(seeds) // 100, false


def spike(rows):
    rows[400] = rows[400] | {"loss": rows[399]["loss"] + 5.0}


def diverging(rows):
    for past, row in enumerate(rows[400:]):
        row["loss"] += 0.02 * past


def not_finite(rows):
    for count, row in enumerate(rows[400:408], 1):
        row |= {"loss": None, "grad_norm": None, "skipped": count}
    for row in rows[408:]:
        row["skipped"] = 8


def exploding(rows):
    for row in rows[400:405]:
        row["grad_norm"] *= 80


def vanishing(rows):
    level = rows[0]["loss"]
    for row in rows[300:]:
        row |= {"grad_norm": row["grad_norm"] * 1e-5, "loss": level}


def leaking(rows):
    for past, row in enumerate(rows[200:]):
        row["agreed_memory_share"] = 0.4 + 0.002 * past


def full(rows):
    for row in rows[500:]:
        row["agreed_memory_share"] = 0.98


def slower(rows):
    for row in rows[300:]:
        row["agreed_step_seconds"] *= 2.5


def hungry(rows):
    for row in rows[300:]:
        row["data_wait_seconds"] = 0.3 * row["step_seconds"]


FAULTS = {
    "loss_spike": [spike],
    "divergence": [diverging],
    "nonfinite": [not_finite],
    "exploding_gradients": [exploding],
    "vanishing_gradients": [vanishing],
    "memory_leak": [leaking],
    "memory_pressure": [full],
    "performance": [slower],
    "data_wait": [hungry],
}
CLAUSES = {
    "loss_spike": "spikes",
    "divergence": "divergence",
    "nonfinite": "divergence",
    "exploding_gradients": "exploding/vanishing gradients",
    "vanishing_gradients": "exploding/vanishing gradients",
    "memory_leak": "memory",
    "memory_pressure": "memory",
    "performance": "performance",
    "data_wait": "performance",
}


@pytest.mark.parametrize(
    ("check", "fault"),
    [
        pytest.param(
            check,
            fault,
            id=fault.__name__,
            marks=pytest.mark.covers(
                f"MON-08: {CLAUSES[check]}",
                *(["MON-17: predictive alerts"] if fault is leaking else []),
            ),
        )
        for check, faults in FAULTS.items()
        for fault in faults
    ],
)
@pytest.mark.covers("MON-06: training_health_score 0-100")
def test_a_fault_in_a_recorded_run_is_found_soon(check, fault):
    names = ("dense, cosine", "conversations, small batches")
    for rows in [recorded()[name] for name in names] + [made(1)]:
        before = [dict(row) for row in rows]
        fault(rows)
        begin = next(n for n, row in enumerate(rows, 1) if row != before[n - 1])
        found, scores = alarms(rows)
        steps = [step for step, name in found if name == check]
        assert steps and begin <= steps[0] <= begin + 220, found
        assert scores[steps[0] - 1] <= 100 - CHECKS[check].penalty
        assert scores[begin - 2] == 100 and min(scores) >= 0
        if fault is spike:
            assert found == [(begin, "loss_spike")]
            assert scores[begin + HOLDS :] == [100] * (len(rows) - begin - HOLDS)


def test_a_loss_that_settles_higher_is_no_divergence_below_the_threshold():
    rows = made(6, noise=0.02, tail=0.0)
    for share, wanted in ((0.07, False), (0.4, True)):
        higher = [dict(row) for row in rows]
        for row in higher[300:]:
            row["loss"] *= 1 + share
        assert ("divergence" in named(higher)) == wanted, share


def test_a_leak_is_told_of_before_the_memory_is_full():
    rows = made(3)
    leaking(rows)
    [first, *_] = [step for step, check in alarms(rows)[0] if check == "memory_leak"]
    assert rows[first - 1]["agreed_memory_share"] < 0.85
    for row in rows:  # as fast, but the run ends before it matters
        row["agreed_memory_share"] = 0.2 + 0.5 * (row["agreed_memory_share"] - 0.2)
    assert "memory_leak" not in named(rows)
    assert line([1.0, 3.0, 5.0]) == pytest.approx((2.0, 1.0))
    assert line([1.0, 1.0]) == (0.0, 0.0)


def test_a_finding_says_when_its_check_judges_again():
    """Experts are judged a window at a time, held-out losses at evaluations."""
    watching = Watching.of(tiny_plan(steps=300, moe=True))
    rows = [
        {"step": step, "loss": 4.0, "loss_tokens": 999, "moe.load": [[0.97, 0.03, 0.0]]}
        for step in range(1, 121)
    ]
    found = [x for row in rows for x in watching.see(row) if "expert" in x.anomaly]
    steps = sorted({x.step for x in found})
    assert (
        {x.next_reading for x in found} == {25} == {b - a for a, b in pairwise(steps)}
    )
    for step, loss in ((130, 2.0), (140, 3.0), (150, 4.0)):
        watching.see({"step": step, "loss": 4.0 - step / 100})
        found = watching.see_evaluation(step, {"eval_loss": loss})
    assert [(x.anomaly, x.next_reading) for x in found] == [("overfitting", None)]


@pytest.mark.covers("MON-08: imbalance", "ORC-09")
def test_uneven_experts_are_told_of():
    rows = recorded()["experts"]
    assert not named(rows)
    even = [0.25] * 4

    def told(loads, tokens=512):
        found = [dict(row) for row in rows]
        for row in found[200:]:
            row |= {"moe.load": [even, loads], "loss_tokens": tokens}
        return alarms(found)[0]

    # An expert without a token; the fullest 11 times the emptiest; one with nearly all.
    both = {"expert_imbalance", "dead_experts"}
    assert {check for _, check in told([0.5, 0.48, 0.02, 0.0])} == both
    assert {check for _, check in told([0.55, 0.35, 0.05, 0.05])} == both - {
        "dead_experts"
    }
    assert "expert_imbalance" in {check for _, check in told([0.9, 0.05, 0.03, 0.02])}
    [(step, _), *_] = told([0.5, 0.48, 0.02, 0.0])
    assert 250 < step <= 350
    assert told([0.49, 0.41, 0.05, 0.05]) == []  # 9.8 times
    assert told([0.45, 0.45, 0.05, 0.05]) == []
    assert told([0.5, 0.48, 0.02, 0.0], tokens=3) == []  # too few to tell
    # Eight experts: one takes more than half, which is four times its share.
    eight = [dict(row) for row in rows]
    for row in eight:
        row["moe.load"] = [[0.55] + [0.45 / 7] * 7]
    assert named(eight) == {"expert_imbalance"}


def test_uneven_experts_of_a_run_that_learns_are_no_reason_to_change_it():
    """Sure where the loss is above its lowest, and not where it falls on."""

    def surest(loss):
        rows = [
            {
                "step": step,
                "loss": loss(step) + 0.01 * (step % 3),
                "loss_tokens": 512,
                "moe.load": [[0.5, 0.49, 0.01, 0.0]],
            }
            for step in range(1, 301)
        ]
        check = ExpertImbalance(tiny_plan(steps=300, moe=True))
        alarms = [alarm for row in rows if (alarm := check.see(row)) is not None]
        return max(alarm.confidence for alarm in alarms)

    assert surest(lambda step: 5 * step**-0.2) == 0.55
    assert surest(lambda step: 3 + step / 100) > 0.9


@pytest.mark.covers("MON-08: MoD routing")
def test_a_bad_predictor_of_depths_is_told_of():
    rows = recorded()["depths"]
    assert rows[0]["mod.predictor_accuracy"]
    for row in rows:
        share = row["mod.selected_ratio"][0]
        row["mod.predictor_accuracy"] = [max(share, 1 - share) - 0.06] * 2
    assert named(rows) == {"depth_routing"}


@pytest.mark.covers("MON-08: stagnation", "MON-08: convergence")
def test_a_level_loss_is_stagnation_at_a_high_rate_and_convergence_at_a_low_one():
    steps = 2400
    draw = random.Random(5)

    def level(rate, fall=0.0):
        return [
            complete(
                {
                    "loss": 3.0 - fall * step / steps + draw.gauss(0, 0.05),
                    "grad_norm": 1.0,
                    "learning_rate": rate,
                }
            )
            for step in range(steps)
        ]

    assert named(level(1e-3)) == {"plateau"}
    found, scores = alarms(level(2e-4))
    assert {check for _, check in found} == {"convergence"} and min(scores) == 100
    assert named(level(2e-4, fall=0.15)) == {"slow_learning"}
    assert "slow_learning" in named(level(1e-3, fall=0.15))


def test_checks_go_on_in_the_middle_of_their_windows():
    rows = made(4)
    diverging(rows)
    leaking(rows)
    for row in rows:
        row["moe.load"] = [[0.9, 0.1, 0.0, 0.0]]
    whole, scores = alarms(rows)
    first = TrainingHealth.made_for(plan())
    notes = []
    for step, row in enumerate(rows, 1):
        if step % 77 == 0:
            state = json.loads(json.dumps(first.state()))
            first.see(row | {"step": step})  # what was captured stays as it was
            first = TrainingHealth.made_for(plan())
            first.load(state)
        first.see(row | {"step": step, "tokens": 512 * step})
        notes += [
            (note.step, note.evidence["check"])
            for note in first.notes()
            if "check" in note.evidence
        ]
        assert first.watching.score == scores[step - 1]
    assert notes == whole
    assert {"divergence", "memory_leak", "expert_imbalance"} <= {x for _, x in notes}


@pytest.mark.covers("MON-08: performance")
def test_every_check_says_when_it_is_raised():
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    for name, check in CHECKS.items():
        line = f"| `{name}` | {check.penalty} | {check.rule} |"
        assert line in page, line


def test_a_loss_that_stays_level_does_not_fall():
    assert falls([4.0] * 4 + [3.0] * 4)
    assert not falls([3.0] * 8) and not falls([3.0] * 4 + [4.0] * 4)
    assert not falls([4.0] * 3 + [3.0] * 3), "too few to say"
