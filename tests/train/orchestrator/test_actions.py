"""What each action proposes, within which bounds, and what it does to a run."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from lumina.errors import LuminaError
from lumina.plan.plan import Plan
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
        ("raise_rate", [1e-3, 1.4e-3, 1.96e-3, None]),
        ("cut_rate", [1e-3, 1e-4]),
        ("cut_rate", [9e-6, None]),
        ("compute_in_bf16", ["fp16", "bf16", None]),
        ("compute_in_bf16", ["mixed_fp8", "bf16"]),
        ("compute_in_bf16", ["fp32", None]),
        ("compute_in_fp32", ["bf16", "fp32", None]),
        ("tighter_clip", [0.0, 1.0, 0.5, 0.25, 0.125, None]),
        ("more_weight_decay", [0.0, 0.01, 0.02, 0.04, 0.08, 0.16, 0.2, None]),
        ("more_weight_decay", [0.5, None]),
        ("less_weight_decay", [4.0, 2.0]),
        ("less_weight_decay", [0.01, None]),  # 100 steps would not show it
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


def test_less_decay_is_asked_for_only_while_steps_are_left() -> None:
    """After the last step nothing could show, however much decay there is."""
    flat = PLAN.replace(lr_scheduler="constant", warmup_steps=0, learning_rate=0.05)
    for step, wanted in ((flat.steps - 1, 2.0), (flat.steps, None)):
        found = Finding("slow_learning", step, "warning", 0.9, "it was made")
        proposal = ACTIONS["less_weight_decay"].proposal(found, lambda _: 4.0, flat)
        assert (None if proposal is None else proposal.value) == wanted


@pytest.mark.covers("PRC-18: underflow suggests bf16")
def test_a_loss_scale_that_finds_no_rest_asks_for_bfloat16() -> None:
    """Gradients as small as eps are no matter of the precision."""
    plan = PLAN.replace(compute_dtype="float16")
    for evidence, wanted in (({"share": 0.3}, "bf16"), ({"eps": 1e-8}, None)):
        found = Finding("underflow", 1, "warning", 0.9, "it was made", evidence)
        action = ACTIONS[LADDERS["underflow"][0]]
        assert not action.possible(plan) and action.possible(PLAN)
        proposal = action.proposal(found, lambda _: "fp16", plan)
        assert (None if proposal is None else proposal.value) == wanted


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


@pytest.mark.covers(
    "ORC-33: x1.5", "ORC-33: x1.4, x1.6", "ORC-14: 1 soft: LR nudge, capacity"
)
@pytest.mark.parametrize(("sure", "factor"), [(0.9, 1.4), (0.95, 1.5), (0.98, 1.6)])
def test_the_surer_a_finding_the_more_the_rate_is_raised(
    sure: float, factor: float
) -> None:
    finding = Finding("slow_learning", 9, "warning", sure, "it was made")
    raised = ACTIONS["raise_rate"].proposal(finding, lambda _: 1e-3, PLAN)
    assert raised is not None and raised.value == pytest.approx(factor * 1e-3)
    assert ACTIONS["raise_rate"].level == ACTIONS["more_capacity"].level == 1


@pytest.mark.covers(
    "ORC-33: reset",
    "ORC-33: smooth final reduction",
    "ORC-14: 2 medium: hyperparameters, experts",
)
def test_a_rate_goes_back_to_its_schedule_or_falls_beside_it() -> None:
    """Only below the schedule, and only where the schedule does not fall by itself."""
    flat = PLAN.replace(lr_scheduler="constant", warmup_steps=0)
    finding = Finding("convergence", 60, "info", 0.95, "it was made")

    def value(name: str, present: Any, plan: Plan = flat) -> Any:
        proposal = ACTIONS[name].proposal(finding, lambda _: present, plan)
        return None if proposal is None else proposal.value

    assert value("reset_rate", 5e-4) == 1e-3
    assert value("reset_rate", 1e-3) is None
    held = {"steps": 1, "share": 1.0}
    assert value("final_reduction", held) == {"steps": 39, "share": 0.1}
    assert value("final_reduction", {"steps": 1, "share": 0.7}) is None
    falling = flat.replace(lr_scheduler="cosine", min_lr=0.0)
    assert value("final_reduction", held, falling) is None
    medium = ("reset_rate", "more_dropout", "add_expert", "prune_expert")
    assert {ACTIONS[name].level for name in medium} == {2}


@pytest.mark.covers("ORC-15: convergence in <50 steps: more evaluation")
def test_a_run_that_converges_is_evaluated_more_where_it_may_stop_early() -> None:
    finding = Finding("convergence", 60, "info", 0.95, "it was made")
    for patience, wanted in ((0, None), (3, 25)):
        plan = PLAN.replace(early_stopping_patience=patience)
        proposal = ACTIONS["evaluate_more"].proposal(finding, lambda _: 50, plan)
        assert (None if proposal is None else proposal.value) == wanted


@pytest.mark.covers("ORC-14: 4 critical")
def test_a_run_that_nothing_helps_ends_with_a_diagnosis(runs: Runs) -> None:
    """One that learns nothing at all, when its ladder has been gone through twice."""
    options = {"adaptive": "on", "adaptive_levels": (4,), "adaptive_cooldown_steps": 1}
    with alarm("divergence", 2, 4, 7), pytest.raises(LuminaError) as caught:
        runs.train(**options, steps=12, learning_rate=1e-9)
    assert caught.value.code == "E301"
    assert "stopped after step 8: nothing that was tried has helped: it is a test" in (
        caught.value.message
    )
    assert "--learning-rate" in caught.value.hint


def test_a_run_that_gets_no_better_ends_early_and_keeps_its_weights(runs: Runs) -> None:
    base = {"adaptive": "on", "adaptive_without": ("nothing",), "steps": 9}
    with alarm("overfitting", 2):
        run = runs.train(**base, adaptive_levels=(4,))
    assert run.result.steps == 3 and run.result.exit_code == 0
    assert "further training does not help" in run.result.reason
    assert run.checkpoints == ["step-00000003"]


@pytest.mark.covers("ORC-42")
def test_what_is_unsafe_pauses_the_run_until_a_person_goes_on(runs: Runs) -> None:
    with alarm("safety_violation", 2):
        run = runs.train(adaptive="on", steps=5)
        assert run.result.steps == 3 and run.result.exit_code == 0
        assert run.result.paused
        assert "a person has to look at it (--resume goes on): it is a test" in (
            run.result.reason
        )
        [decision] = decisions(run)
        assert (decision["action"], decision["level"]) == ("pause", 4)
        again = runs.train(adaptive="on", steps=5, run_dir=None, resume=str(run.folder))
    assert again.column("step")[-1] == 5


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


@pytest.mark.covers(
    "ORC-33: smooth final reduction",
    "ORC-15: convergence in <50 steps: smooth LR reduction",
)
def test_the_rate_falls_evenly_to_the_end(runs: Runs) -> None:
    flat = {"lr_scheduler": "constant", "steps": 7, "warmup_steps": 0}
    base = {"adaptive": "on", **flat, "save_every_n_batches": 4}
    with alarm("convergence", 1):
        whole = runs.train(**base)
    assert [d["action"] for d in decisions(whole)] == ["final_reduction"]
    assert whole.column("learning_rate") == pytest.approx(
        [3e-3 * x for x in (1, 1, 1, 0.82, 0.64, 0.46, 0.28)]
    )


@pytest.mark.covers(
    "ORC-14: 3 hard: LR/10", "ORC-26: emergency_lr_reduction(factor=10.0)"
)
def test_a_rate_that_is_far_too_high_begins_again_with_a_tenth(runs: Runs) -> None:
    """Back to the start, on the same rows, warming up; or else a tenth at once."""
    base = {"adaptive": "on", "steps": 7, "adaptive_cooldown_steps": 6}
    plain = runs.train(steps=7)
    with alarm("high_rate", 3):
        back = runs.train(**base)
        cut = runs.train(**base, adaptive_without=("restart_lower_rate",))
    (first,) = [d for d in decisions(back) if d["action"] != "nothing"]
    assert (first["action"], first["level"]) == ("restart_lower_rate", 3)
    assert back.column("loss")[0] == plain.column("loss")[0], "the same rows"
    rates = [
        a / b
        for a, b in zip(
            back.column("learning_rate"), plain.column("learning_rate"), strict=True
        )
    ]
    assert rates == pytest.approx([0.01 + 0.015 * n for n in range(7)])
    (second,) = [d for d in decisions(cut) if d["action"] != "nothing"]
    assert second["action"] == "cut_rate" and second["new"] == second["old"] / 10
    assert cut.column("learning_rate")[-1] == pytest.approx(
        plain.column("learning_rate")[-1] / 10
    )


@pytest.mark.covers(
    "PRC-18: instability changes quantisation",
    "PRC-20",
)
def test_a_run_that_no_lower_rate_helps_computes_in_float32(runs: Runs) -> None:
    """From the next step on it has the losses of float32, and a resume keeps that."""
    base = {"precision": "bf16", "steps": 6, "adaptive_without": ("lower_rate",)}
    narrow = runs.train(precision="bf16", steps=6)
    with alarm("nonfinite", 1, 2, 3, 4):
        run = runs.train(**base, adaptive="on", adaptive_cooldown_steps=1)
    (made,) = [d for d in decisions(run) if d["action"] == "compute_in_fp32"]
    assert (made["old"], made["new"]) == ("bf16", "fp32")
    at = made["step"] + 1
    assert run.column("loss")[:at] == narrow.column("loss")[:at]
    assert run.column("loss")[at:] != narrow.column("loss")[at:]
    more = {"run_dir": None, "resume": str(run.folder), "steps": 7}
    again = runs.train(**base | more, adaptive="on", adaptive_cooldown_steps=1)
    plan = json.loads((again.folder / "plan.json").read_text())
    assert plan["compute_dtype"] == "float32" and again.column("step")[-1] == 7


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
