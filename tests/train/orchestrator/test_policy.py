"""The policy on made rows: ladders, cooldowns, outcomes, and what is undone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lumina.train.orchestrator.policy import Policy
from orchestrator_runs import Made, falling


def test_a_ladder_is_climbed_one_step_in_a_cooldown() -> None:
    made = Made().run(20, falling).run(40, lambda _: 4.0, "loss_spike")
    assert made.decided()[:3] == [
        (21, "nothing"), (23, "tighter_clip"), (33, "reset_moments"),
    ]  # fmt: skip
    numbers = [d["number"] for _, kind, d in made.told if kind == "decision"]
    assert numbers == list(range(1, len(numbers) + 1))


def test_shadow_decides_and_proposes_nothing() -> None:
    made = Made("shadow").run(20, falling).run(10, lambda _: 4.0, "divergence")
    assert made.decided()[0] == (21, "lower_rate")
    assert not made.changes


def test_what_is_pinned_or_not_sure_enough_is_passed_over_and_named() -> None:
    made = Made(pinned=("learning_rate",)).run(20, falling)
    made.run(1, falling, "divergence", confidence=0.79)
    ((_, kind, data),) = made.told
    assert (kind, data["action"]) == ("decision", "nothing")
    assert "learning_rate is pinned" in data["reason"]
    assert "confidence 0.79 is below 0.8" in data["reason"]


def test_an_anomaly_that_heals_is_left_alone() -> None:
    made = Made().run(30, falling).run(1, lambda _: 9.0, "loss_spike").run(20, falling)
    assert made.decided() == [(31, "nothing")]
    assert made.outcomes() == [(1, "better")]
    ((_, _, decision), (_, _, outcome)) = made.told
    why = "nothing is changed: loss_spike was made (it may heal by itself)"
    assert decision["reason"] == why
    said = "loss_spike was not found again meanwhile; the loss is "
    assert outcome["text"].startswith(said) and "without it" not in outcome["text"]


@pytest.mark.parametrize(
    ("anomaly", "next_reading", "judged"),
    [("expert_imbalance", 20, 60), ("overfitting", None, 61)],
)
def test_what_is_left_alone_is_watched_until_its_check_has_judged_again(
    anomaly: str, next_reading: int | None, judged: int
) -> None:
    """A window, or an evaluation, of 20 steps; the cooldown is 5."""

    def left_alone() -> Made:
        made = Made().run(39, falling)
        made.values["eval_every"] = 20
        return made.run(1, falling, anomaly, next_reading=next_reading)

    found = left_alone().run(19, falling)
    assert (found.decided(), found.outcomes()) == ([(40, "nothing")], [])
    found.run(1, falling, anomaly, next_reading=next_reading)
    step, _, outcome = next(x for x in found.told if x[1] == "decision_outcome")
    assert (step, outcome["verdict"]) == (60, "same")
    assert f"{anomaly} was found again in 1 step" in outcome["text"]
    # The row of the step of an evaluation is judged before its findings are known.
    healed = left_alone().run(21, falling)
    step, _, outcome = healed.told[-1]
    assert (step, outcome["verdict"]) == (judged, "better")


def test_actions_with_the_same_objection_are_named_together() -> None:
    made = Made(pinned=("learning_rate", "max_grad_norm")).run(20, falling)
    made.run(60, lambda _: 4.0, "oscillation")
    said = [d["reason"] for _, kind, d in made.told if kind == "decision"]
    assert any("(lower_rate: learning_rate is pinned" in text for text in said), said


@pytest.mark.covers("ORC-39: undo when the outcome is worse")
def test_what_made_things_worse_is_undone_and_not_done_again() -> None:
    made = Made().run(40, falling).run(1, falling, "divergence")
    made.run(30, lambda step: falling(step) + 0.2)
    assert made.decided() == [(41, "lower_rate"), (51, "undo")]
    assert made.outcomes() == [(1, "worse")]
    assert made.values["learning_rate"] == 1e-3
    assert made.changes[1].undoes == 1
    made.run(40, falling).run(1, falling, "divergence")
    assert made.decided()[-1][1] == "rollback_lower_rate", "not what was worse"


def test_a_loss_as_expected_is_kept_and_not_undone() -> None:
    made = Made().run(40, falling).run(1, falling, "divergence").run(30, falling)
    assert made.decided() == [(41, "lower_rate")]
    assert made.outcomes() == [(1, "same")]


def test_a_resumed_policy_decides_what_one_that_never_stopped_decides() -> None:
    def whole(cut: int | None) -> list[Any]:
        made = Made().run(20, falling)
        for step in range(30):
            if step == cut:
                held = json.loads(json.dumps(made.policy.state()))
                made.policy = Policy(made.plan)
                made.policy.load(held)
            made.run(1, lambda step: falling(step) + 0.5, "oscillation")
        return made.told

    assert all(whole(cut) == whole(None) for cut in range(0, 30, 7))


@pytest.mark.covers("ORC-30")
def test_the_journal_has_what_was_seen_done_and_came_of_it() -> None:
    made = Made().run(40, falling).run(1, falling, "divergence").run(30, falling)
    (step, kind, decision), (later, outcome_kind, outcome) = made.told
    assert (step, kind) == (41, "decision")
    assert decision == {
        "number": 1, "anomaly": "divergence", "action": "lower_rate", "level": 2,
        "mode": "on", "confidence": 0.95, "control": "learning_rate",
        "reason": "half the learning rate: divergence was made",
        "evidence": {"phase": "steady"}, "old": 1e-3, "new": 5e-4,
    }  # fmt: skip
    assert (later, outcome_kind) == (51, "decision_outcome")
    assert outcome["number"] == 1 and outcome["verdict"] == "same"
    assert outcome["measured"] == pytest.approx(outcome["expected"], rel=0.01)
    assert made.policy.ledger.recent[0]["outcome"] == "same"


@pytest.mark.covers(
    "MON-06: total_decisions, decisions_per_epoch, decision_confidence",
    "MON-06: lr_adjustments, architecture_changes",
    "MON-06: anomalies_detected, anomalies_resolved",
)
def test_the_account_counts_decisions_changes_and_anomalies() -> None:
    made = Made().run(40, falling).run(1, falling, "divergence", confidence=0.9)
    assert made.policy.metrics()["anomalies_resolved"] == 0
    made.run(40, falling).run(1, falling, "convergence", confidence=0.7)
    found = made.policy.metrics()
    assert found["total_decisions"] == found["decisions_per_epoch"] == 2
    assert found["decision_confidence"] == 0.7
    assert (found["lr_adjustments"], found["architecture_changes"]) == (1, 0)
    assert (found["anomalies_detected"], found["anomalies_resolved"]) == (2, 1)
    assert found["prediction_accuracy"] > 0.9


@pytest.mark.covers(
    "ORC-18: recent-decision buffer",
    "MON-06: meta_learning_runs, successful_strategies, prediction_accuracy",
)
def test_the_newest_decisions_are_kept_with_what_came_of_them() -> None:
    """Twenty of them, over a resume too; a change that helped is a success."""
    made = Made(experience={}).run(40, falling).run(1, falling, "divergence")
    made.run(20, lambda step: falling(step) - 0.3)
    assert made.policy.ledger.recent[-1]["outcome"] == "better"
    found = made.policy.metrics()
    assert (found["successful_strategies"], found["meta_learning_runs"]) == (1, 0)
    assert 0 <= found["prediction_accuracy"] <= 1
    for _ in range(25):
        made.run(1, falling, "loss_spike").run(30, falling)
    numbers = [one["number"] for one in made.policy.ledger.recent]
    assert len(numbers) == 20 and numbers[-1] == made.policy.ledger.total > 20
    again = Policy(made.plan)
    again.load(json.loads(json.dumps(made.policy.state())))
    assert again.ledger.recent == made.policy.ledger.recent


@pytest.mark.covers("ORC-11: LR x1.5", "ORC-11: less regularisation")
def test_what_makes_no_difference_to_a_plateau_is_undone() -> None:
    """First half the rate, then half as much again, then less decay."""

    def level(step: int) -> float:
        return 3.0 + 0.01 * (step % 3 - 1)

    def long(confidence: float) -> Made:
        made = Made().run(30, level)
        made.values["weight_decay"] = 4.0  # in 100 steps it makes a difference
        return made.run(100, level, "plateau", confidence=confidence)

    made = long(0.95)
    assert [action for _, action in made.decided()][:5] == [
        "try_lower_rate", "undo", "raise_rate", "undo", "less_weight_decay",
    ]  # fmt: skip
    assert [change.value for change in made.changes][:4] == [5e-4, 1e-3, 1.5e-3, 1e-3]
    assert next(action for _, action in long(0.75).decided()) == "less_weight_decay"
    little = Made().run(30, level).run(1, level, "plateau", confidence=0.75)
    assert little.decided() == [(31, "nothing")], "0.005 less takes 0.03% in the end"
    doubtful = Made().run(30, level)
    doubtful.run(60, level, "slow_learning", confidence=0.89)
    assert next(action for _, action in doubtful.decided()) == "nothing"


def test_a_level_loss_after_a_disturbance_waits() -> None:
    """Over steps of which some were disturbed it may only be recovering."""

    def level(step: int) -> float:
        return 3.0 + 0.01 * (step % 3 - 1)

    def first(before: int) -> list[tuple[int, str]]:
        made = Made(pinned=("max_grad_norm",)).run(30, level)
        made.run(1, level, "exploding_gradients").run(before, level)
        made.run(1, level, "plateau", confidence=0.95, over=15)
        return made.decided()[1:]

    assert first(13) == []
    assert first(14) == [(46, "try_lower_rate")]


@pytest.mark.parametrize(
    ("anomaly", "acts"),
    [("plateau", False), ("dead_experts", False), ("exploding_gradients", True)],
)
def test_what_helps_slowly_is_not_begun_at_the_end(anomaly: str, acts: bool) -> None:
    def actions(step: int) -> list[str]:
        made = Made(moe=True).run(step - 4, falling)
        made.values |= {"router_jitter_noise": 0.0, "expert_dropout": 0.0}
        made.run(4, falling, anomaly)
        return [action for _, action in made.decided() if action != "nothing"]

    assert len(actions(170)) == 1
    assert bool(actions(188)) is acts


def test_what_a_new_beginning_was_worth_shows_at_the_steps_that_it_had_reached() -> (
    None
):
    """Lower at step 41, and until then no lower than the run was."""
    made = Made().run(40, lambda step: max(falling(step), 3.0))
    made.run(1, lambda _: 3.0, "high_rate", severity="error")
    assert made.decided() == [(41, "restart_lower_rate")]
    made.policy.rolled_back(0, None)
    made.step = 0
    made.run(45, lambda step: max(falling(step), 3.0) if step < 42 else 2.5)
    assert not made.outcomes()
    assert made.run(2, lambda _: 2.5).outcomes() == [(1, "better")]


def test_going_back_keeps_the_account_and_begins_the_windows_anew() -> None:
    """From step 41 to 30: measured after a cooldown of steps that count from there."""
    made = Made().run(30, falling)
    then = made.policy.state()
    made.run(10, falling).run(1, lambda _: 5.0, "divergence", severity="error")
    made.run(3, lambda _: 5.0, "divergence", severity="error")
    assert made.decided()[-1] == (44, "rollback_lower_rate")
    made.policy.rolled_back(30, then)
    made.step = 30
    made.run(9, falling, "divergence", severity="warning")
    assert made.policy.ledger.total == 2, "the cooldown began anew"
    assert made.policy.metrics()["rollbacks_performed"] == 1
    made.run(2, falling)
    assert made.outcomes()[-1][0] == 2, "steps 36 to 40 were measured"
