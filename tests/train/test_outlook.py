"""What becomes of a run: predictions with intervals, risks, phases, and the report."""

from __future__ import annotations

import json
import math
import random

import pytest

from lumina.plan.schedule import learning_rate_at
from lumina.train.health.outlook import Outlook
from lumina.train.health.phases import Phases
from lumina.train.health.prediction import Point, predict
from lumina.train.health.report import ConvergenceReport
from lumina.train.health.watching import Watching
from lumina.train.rules.training_health import TrainingHealth
from programs import tiny_plan


def plan(steps, **more):
    return tiny_plan(
        steps=steps,
        warmup_steps=max(steps // 20, 3),
        learning_rate=1e-3,
        min_lr=1e-4,
        **({"lr_scheduler": "constant"} | more),
    )


def rows(decided, curve, noise=0.01, seed=0, upto=None):
    draw = random.Random(seed)
    for step in range(1, (upto or decided.steps) + 1):
        yield {
            "step": step,
            "tokens": 512 * step,
            "loss": curve(step) * (1 + draw.gauss(0, noise)),
            "grad_norm": 0.5,
            "learning_rate": learning_rate_at(decided, step - 1),
            "agreed_memory_share": 0.5,
            "agreed_step_seconds": 0.1,
        }


def seen(decided, curve, **more):
    outlook = Outlook(decided)
    for row in rows(decided, curve, **more):
        outlook.see(row)
    return outlook


@pytest.mark.covers("ORC-16")
def test_the_final_loss_lies_in_its_interval_in_nine_cases_of_ten():
    inside, there = 0, 0
    for seed in range(24):
        draw = random.Random(seed)
        steps = draw.choice((120, 400, 1500))
        floor, fall = draw.uniform(0.5, 3), draw.uniform(2, 6)
        power = draw.uniform(0.2, 0.6)

        def curve(step, floor=floor, fall=fall, power=power):
            return floor + fall * step**-power

        decided = plan(steps)
        outlook = seen(decided, curve, seed=seed, noise=0.02, upto=steps // 2)
        found = outlook.convergence()
        if found.reason:
            assert found.interval is None and found.confidence == 0
            continue
        there += 1
        low, high = found.interval
        assert low <= found.expected_final_loss <= high
        assert high - low < 0.5 * curve(steps)
        inside += low <= curve(steps) <= high
    assert there >= 20 and inside / there >= 0.85


@pytest.mark.covers("ORC-16")
def test_convergence_is_predicted_where_the_loss_levels_off_and_only_there():
    decided = plan(2000)

    def levelling(step):
        return 2 + 3 * math.exp(-step / 150)

    found = seen(decided, levelling, upto=400).convergence()
    # 3 exp(-s / 150) is 1% of the loss at step 750.
    assert 600 <= found.predicted_convergence_step <= 950
    assert found.steps_remaining == found.predicted_convergence_step - 400
    assert found.expected_final_loss == pytest.approx(2.0, rel=0.05)
    assert 0.5 < found.confidence <= 0.95
    assert json.loads(json.dumps(found.to_dict()))["interval"] == list(found.interval)
    still = seen(decided, lambda step: 1 + 6 * step**-0.3, upto=400).convergence()
    assert still.predicted_convergence_step is None is still.steps_remaining
    assert still.expected_final_loss


@pytest.mark.covers("ORC-16")
def test_where_nothing_can_be_said_there_is_no_prediction():
    decided = plan(600)
    few = seen(decided, lambda step: 5 - step / 100, upto=40).convergence()
    assert "too few" in few.reason and few.expected_final_loss is None
    rising = seen(decided, lambda step: 2 + abs(step - 150) / 100, upto=300)
    assert "above what it was" in rising.convergence().reason
    steep = seen(decided, lambda step: 9 - (step / 200) ** 3, upto=400, noise=1e-3)
    assert steep.convergence().reason
    assert predict([Point(1.0, 2.0, 0.1)] * 3, 100, 200).reason


def test_a_cosine_is_known_to_bring_the_loss_down_at_its_end():
    decided = plan(1000, lr_scheduler="cosine")

    def curve(step):
        rate = learning_rate_at(decided, step - 1) / decided.learning_rate
        return (1.5 + 5 * step**-0.4) * (1 + 0.1 * (rate - 1))

    found = seen(decided, curve, upto=700).convergence()
    low, high = found.interval
    assert low <= curve(1000) <= high


@pytest.mark.covers("ORC-17")
def test_each_risk_is_seen_and_the_greatest_is_told():
    decided = plan(300)
    calm = seen(decided, lambda step: 2 + step**-0.5).failure()
    assert calm["overall_risk_score"] == 0
    assert calm["risk_factors"] == calm["recommended_actions"] == []
    base = list(rows(decided, lambda step: 2 + step**-0.5))

    def risks(change):
        outlook = Outlook(decided)
        for row in base:
            outlook.see(row | change(row["step"]))
        return outlook.failure()

    found = risks(lambda step: {"grad_norm": 30 + step / 4.5})
    assert found["gradient_explosion_risk"] == 0.7
    assert risks(lambda step: {"grad_norm": 60.0})["gradient_explosion_risk"] == 0
    assert risks(lambda _: {"grad_norm": 300.0})["gradient_explosion_risk"] == 0.95
    found = risks(lambda step: {"agreed_memory_share": 0.6 + step / 1000})
    assert 0.8 <= found["oom_risk"] < 0.95 and found["gradient_explosion_risk"] == 0
    assert risks(lambda step: {"agreed_memory_share": 0.9})["oom_risk"] == 0
    for start in range(14):  # R^2 of most of these lines is a rounding above 1
        used = {row["step"]: start / 20 + row["step"] / 1000 for row in base}
        straight = risks(lambda step, used=used: {"agreed_memory_share": used[step]})
        assert (straight["oom_risk"] > 0.8) == (start > 11)
    found = risks(lambda step: {"loss": 2 + max(step - 240, 0) / 50})
    assert found["divergence_risk"] >= 0.6
    loads = [[0.5, 0.4, 0.1]]
    falling = risks(lambda step: {"moe.load": [[*loads[0], 0.012 - step / 30000]]})
    assert falling["expert_collapse_risk"] >= 0.75
    assert falling["overall_risk_score"] == falling["expert_collapse_risk"]
    assert len(falling["risk_factors"]) == len(falling["recommended_actions"]) == 1
    assert risks(lambda step: {"moe.load": loads})["overall_risk_score"] == 0


def test_ten_steps_of_a_short_run_show_that_its_memory_grows():
    """Some noise on them does not hide it."""
    decided = plan(60)
    outlook = Outlook(decided)
    for row in rows(decided, lambda step: 2 + step**-0.5):
        used = 0.85 + row["step"] / 1000 + (row["step"] % 2) / 2000
        outlook.see(row | {"agreed_memory_share": used})
    assert outlook.window == 10 and outlook.failure()["oom_risk"] > 0.8


@pytest.mark.covers("ORC-13")
@pytest.mark.parametrize("steps", [60, 2000])
def test_the_phase_follows_the_loss(steps):
    decided = plan(steps)

    def at(curve, noise=0.01):
        phases, found = Phases(decided), []
        for row in rows(decided, curve, noise=noise):
            phases.see(row)
            if found[-1:] != [phases.now]:
                found.append(phases.now)
        return found

    half = steps / 2
    falling = 1 + 3 * half**-0.3
    assert at(lambda step: 1 + 3 * step**-0.3) == ["INITIALIZATION", "CONVERGING"]
    assert at(lambda step: 2.0, noise=1e-4)[-1] == "PLATEAU"
    rising = at(
        lambda step: (
            1 + 3 * step**-0.3
            if step < half
            else falling * (1 + 2 * (step - half) / half)
        )
    )
    assert rising == ["INITIALIZATION", "CONVERGING", "DIVERGING"]
    # Noise is judged beside the loss, and a loss that rises is found through noise.
    assert at(lambda step: 2.0, noise=0.4)[-1] == "VOLATILE"
    assert at(lambda step: 200.0, noise=0.01)[-1] != "VOLATILE"


def test_one_verdict_does_not_change_the_phase():
    phases = Phases(plan(2000))
    for row in rows(phases_plan := plan(2000), lambda step: 1 + 3 * step**-0.3):
        lifted = 3.0 if 1000 < row["step"] <= 1030 else 1.0
        phases.see(row | {"loss": row["loss"] * lifted})
        assert phases.now in ("INITIALIZATION", "CONVERGING"), row["step"]
    assert phases_plan.steps == 2000


@pytest.mark.covers("ORC-28")
def test_the_report_names_good_signs_warnings_and_what_helps():
    decided = plan(600)
    health = TrainingHealth.made_for(decided)
    for row in rows(decided, lambda step: 1 + 5 * step**-0.4):
        step = row["step"]
        health.see(row | {"moe.load": [[0.25] * 4], "loss_tokens": 512})
        if step % 100 == 0:
            rise = max(step - 300, 0) / 1000
            found = {"eval_loss": 3 - step / 600 + 2 * rise, "eval_accuracy": 0.3}
            health.see_evaluation(step, found)
    [note] = [note for note in health.notes() if "report" in note.evidence]
    assert note.step == 600 and note.severity == "debug"
    report = note.evidence["report"]
    text = " ".join(report["good"])
    for sign in ("the loss fell", "norm is stable", "experts are balanced"):
        assert sign in text, text
    assert "held-out loss follows" in text
    [warning] = report["warnings"]
    assert warning.startswith("overfitting: it goes on, last at step 600")
    assert "--dropout" in report["advice"][0] and "more data" in report["advice"][0]
    assert report["phase"] == "CONVERGING"
    assert report["prediction"]["expected_final_loss"]
    state = json.loads(json.dumps(health.state()))
    again = Watching.of(decided)
    again.load(state)
    assert ConvergenceReport.of(again).to_dict() == report
