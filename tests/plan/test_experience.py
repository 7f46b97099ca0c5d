"""How outcomes of earlier runs move the confidence of an action."""

from __future__ import annotations

import pytest

from lumina.model.spec import ModelSpec
from lumina.plan.experience import LEAST, confidence, run_kind, size_class
from lumina.plan.plan import Plan

SPEC = ModelSpec(300, 300, 32, 2, 2, 1, 16, 64, 32)
PLAN = Plan(spec=SPEC, active_parameters=124_000_000)
EXACT = "loss_spike/dense:100M:adamw:stable/rollback"
OTHER_PHASE = "loss_spike/dense:100M:adamw:any/rollback"
ANY_RUN = "loss_spike/any:any/rollback"


def of(seen: dict[str, list[int]], phase: str = "stable") -> float:
    plan = PLAN.replace(experience=seen)
    return confidence(plan, 0.8, "loss_spike", phase, "rollback").value


def test_without_experience_the_prior_stands() -> None:
    found = confidence(PLAN, 0.8, "loss_spike", "stable", "rollback")
    assert found.value == 0.8
    assert found.why == "no experience counts yet"


def test_outcomes_count_from_the_fifth_on() -> None:
    assert LEAST == 5
    assert of({EXACT: [0, 4]}) == 0.8
    # The mean of Beta(0.8 x 5, 0.2 x 5) after five failures.
    assert of({EXACT: [0, 5]}) == pytest.approx(4 / 10)
    assert of({EXACT: [5, 0]}) == pytest.approx(9 / 10)


@pytest.mark.covers("ORC-18: meta-model")
def test_less_alike_runs_move_it_less_and_the_most_alike_are_taken() -> None:
    exact, phase, any_run = (of({k: [0, 10]}) for k in (EXACT, OTHER_PHASE, ANY_RUN))
    assert exact == pytest.approx(4 / 15)
    assert phase == pytest.approx(8 / 20)
    assert any_run == pytest.approx(16 / 30)
    assert of({EXACT: [0, 10], ANY_RUN: [50, 0]}) == exact
    assert of({EXACT: [0, 4], OTHER_PHASE: [0, 10], ANY_RUN: [50, 0]}) == phase


def test_another_anomaly_phase_or_action_has_its_own_outcomes() -> None:
    seen = {EXACT: [0, 10]}
    plan = PLAN.replace(experience=seen)
    assert confidence(plan, 0.7, "plateau", "stable", "rollback").value == 0.7
    assert confidence(plan, 0.7, "loss_spike", "warm_up", "rollback").value == 0.7
    assert confidence(plan, 0.7, "loss_spike", "stable", "nothing").value == 0.7


@pytest.mark.parametrize(
    ("parameters", "name"),
    [(0, "1K"), (999_999, "100K"), (10**6, "1M"), (124_000_000, "100M"),
     (1_300_000_000, "1B"), (10**13, "10T")],
)  # fmt: skip
def test_size_classes(parameters: int, name: str) -> None:
    assert size_class(parameters) == name


def test_the_kind_of_a_run() -> None:
    assert run_kind(PLAN) == "dense:100M:adamw"
    assert run_kind(PLAN.replace(optimizer="lion")) == "dense:100M:lion"


def test_a_plan_keeps_its_experience() -> None:
    plan = PLAN.replace(experience={EXACT: [3, 4]})
    assert Plan.from_dict(plan.to_dict()).experience == {EXACT: [3, 4]}
