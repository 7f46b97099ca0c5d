"""What each action proposes, within which bounds, and what it does to a run."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from lumina.errors import LuminaError
from lumina.train.controls import control_named
from lumina.train.health.watching import Finding
from lumina.train.orchestrator.actions import ACTIONS
from lumina.train.orchestrator.ladders import LADDERS
from option_effects.adaptive import alarm, decisions
from programs import tiny_plan
from tiny_runs import Runs

PLAN = tiny_plan(
    moe=True,
    learning_rate=1e-3,
    max_grad_norm=1.0,
    steps=100,
    orchestrator={"mode": "on", "cooldown_steps": 5},
)


def proposed(name: str, value: Any, **evidence: float) -> Any:
    """The value that an action proposes where its control has this one; or None."""
    finding = Finding("made", 1, "warning", 0.9, "it was made", evidence)
    proposal = ACTIONS[name].proposal(finding, lambda _: value, PLAN)
    if proposal is None:
        return None
    control_named(proposal.control).check_value(proposal.value)
    assert "it was made" in proposal.reason and proposal.confidence == 0.9
    return proposal.value


@pytest.mark.covers(
    "ORC-39: bounds", "ORC-34: routing temperature", "ORC-34: expert dropout"
)
@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("lower_rate", [1e-3, 5e-4]),
        ("lower_rate", [1.9e-6, None]),
        ("raise_rate", [1e-3, 1.5e-3, None]),
        ("tighter_clip", [0.0, 1.0, 0.5, 0.25, 0.125, None]),
        ("more_weight_decay", [0.0, 0.01, 0.02, 0.04, 0.08, 0.16, 0.2, None]),
        ("more_weight_decay", [0.5, None]),
        ("less_weight_decay", [0.01, 0.005]),
        ("less_weight_decay", [0.001, None]),
        ("more_dropout", [0.0, 0.1, 0.15, 0.225, 0.3, None]),
        ("more_capacity", [1.0, 1.25]),
        ("more_capacity", [2.8, None]),
        ("higher_temperature", [1.0, 1.25, 1.5625, 1.953125, 2.0, None]),
        ("expert_dropout", [0.0, 0.05, 0.1, 0.2, None]),
        ("router_jitter", [0.0, 0.01, 0.02, 0.04, 0.08, 0.1, None]),
        ("recompute_activations", ["none", "selective", "full", None]),
        ("smaller_micro_batch", [8, 4, 2, 1, None]),
        ("evaluate_more", [50, 25, 12]),
        ("evaluate_more", [1, None]),
        ("evaluate_more", [0, None]),
    ],
)
def test_a_value_moves_up_to_its_bound(name: str, steps: list[Any]) -> None:
    for value, then in itertools.pairwise(steps):
        assert proposed(name, value) == pytest.approx(then)


@pytest.mark.covers("ORC-34: MoD capacity")
def test_experts_and_depths_move_within_bounds() -> None:
    assert proposed("add_expert", 4) == {"how": "busiest", "noise": 0.01}
    assert proposed("add_expert", 6) is None
    assert proposed("prune_expert", 3) == {}
    assert proposed("prune_expert", 2) is None
    assert proposed("more_depth_capacity", 0.4, ratio=0.2) == 0.5
    assert proposed("more_depth_capacity", 0.7, ratio=0.2) == 0.8
    assert proposed("more_depth_capacity", 0.4, ratio=0.4) is None
    assert proposed("less_depth_capacity", 0.9, ratio=0.9) == 0.72
    assert proposed("less_depth_capacity", 0.3, ratio=0.9) is None


def test_every_ladder_names_actions_that_there_are() -> None:
    assert {name for ladder in LADDERS.values() for name in ladder} <= set(ACTIONS)


@pytest.mark.parametrize("name", [name for name in ACTIONS if name != "nothing"])
def test_what_is_pinned_is_not_possible(name: str) -> None:
    pinned = PLAN.replace(pinned=(ACTIONS[name].control,))
    assert ACTIONS[name].possible(pinned)


@pytest.mark.covers("ORC-14: 4 critical")
def test_a_run_that_nothing_helps_ends_with_a_diagnosis(runs: Runs) -> None:
    with alarm("divergence", 2), pytest.raises(LuminaError) as caught:
        runs.train(adaptive="on", adaptive_levels=(4,), steps=9)
    assert caught.value.code == "E301"
    assert "stopped after step 3: nothing that was tried has helped: it is a test" in (
        caught.value.message
    )
    assert "--learning-rate" in caught.value.hint


def test_a_run_that_gets_no_better_ends_early_and_keeps_its_weights(runs: Runs) -> None:
    with alarm("overfitting", 2):
        run = runs.train(adaptive="on", adaptive_levels=(4,), steps=9)
    assert run.result.steps == 3 and run.result.exit_code == 0
    assert "further training does not help" in run.result.reason
    assert run.checkpoints == ["step-00000003"]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


def test_moments_begin_anew_and_the_rate_warms_up_again(runs: Runs) -> None:
    """Weights stay: the first step after it is that of a rate of 0."""
    base = {"adaptive": "on", "adaptive_cooldown_steps": 4, "steps": 8}
    with alarm("divergence", 1):
        run = runs.train(**base, adaptive_without=("lower_rate",), adaptive_levels=(2,))
    assert [d["action"] for d in decisions(run)] == ["reset_moments"]
    assert run.column("learning_rate") == pytest.approx(
        [3e-3, 3e-3, 0.0, 0.75e-3, 1.5e-3, 2.25e-3, 3e-3, 3e-3]
    )
    (event,) = [e for e in run.events if e["kind"] == "control"]
    assert event["data"]["value"] == {"rewarm": 4}
