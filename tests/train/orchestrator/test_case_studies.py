"""Two runs of case studies again: each trouble is made, found, and acted upon.

The rows are made; checks, policy and controls are those of a run. What a change sets is
what later decisions see.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from lumina.config import Config
from lumina.model.spec import ModSpec
from lumina.plan.decisions import Decisions
from lumina.plan.orchestrating import decide_orchestrator
from lumina.plan.plan import Plan
from lumina.train.controls import Change
from lumina.train.replaying.stand_in import StandIn
from lumina.train.rules.orchestrator import Orchestrator
from programs import tiny_plan

STEPS, AT = 1000, 200
EVEN = [[0.25] * 4] * 2

Row = dict[str, Any]


def plan(mod: bool = False, **changes: Any) -> Plan:
    """A run with experts, and maybe blocks that leave tokens out; all that may act."""
    decided = Decisions(values={"steps": STEPS})
    decide_orchestrator(Config(adaptive="on", adaptive_cooldown_steps=30), decided)
    values = {"learning_rate": 1e-3, "steps": STEPS, "max_grad_norm": 1.0}
    values |= {"warmup_steps": 20, "orchestrator": decided.values["orchestrator"]}
    found = tiny_plan(moe=True, **values | changes)
    if mod:
        depth = ModSpec(layers=(0, 1), capacity=0.5)
        found = found.replace(spec=replace(found.spec, mod=depth))
    return found


def rows(steps: int = STEPS) -> list[Row]:
    draw = random.Random(0)
    return [
        {
            "step": step, "tokens": 512 * step, "loss_tokens": 512, "skipped": 0,
            "loss": (1.5 + 4 * step**-0.4) * (1 + draw.gauss(0, 0.01)),
            "grad_norm": 0.5 + draw.uniform(-0.1, 0.1), "learning_rate": 1e-3,
            "moe.load": EVEN, "agreed_memory_share": 0.5, "agreed_step_seconds": 0.1,
        }
        for step in range(1, steps + 1)
    ]  # fmt: skip


def decided(plan: Plan, made: list[Row]) -> list[tuple[str, str, Any, Any]]:
    """(anomaly, action, old, new) of the changes; each is carried out."""
    rule, stand_in, found = Orchestrator.made_for(plan), StandIn(plan), []
    for row in made:
        step = row["step"]
        rule.see(row | {"learning_rate": stand_in.now("learning_rate", step)})
        proposal = rule.propose(step, lambda name, at=step: stand_in.now(name, at))
        if proposal is None:
            continue
        change = Change(
            len(found) + 1, proposal.control, proposal.value, proposal.reason,
            "orchestrator", step=step, old=stand_in.now(proposal.control, step),
            outcome="applied", undoes=proposal.undoes,
        )  # fmt: skip
        stand_in.apply(change, step, None)
        rule.changed(change, rule.name)
        for note in rule.notes():
            one: Mapping[str, Any] = note.evidence
            if note.kind == "decision" and one["control"]:
                found.append((one["anomaly"], one["action"], one["old"], one["new"]))
    return found


def slow(row: Row) -> None:
    row["loss"] = 5.7 * (1 - 1e-4 * row["step"]) + 0.01 * (row["step"] % 3)


def level(row: Row) -> None:
    if row["step"] > AT:
        row["loss"] = 2.0 + 0.005 * (row["step"] % 3)


def filling(row: Row) -> None:
    row["agreed_memory_share"] = min(0.6 + row["step"] / 900, 0.97)


def squatter(row: Row) -> None:
    if row["step"] > AT:
        row["agreed_memory_share"] = 0.985


def worse(row: Row) -> None:
    """A loss that is no longer as low as it was."""
    if row["step"] > AT:
        row["loss"] = 2.05 + 0.005 * (row["step"] % 3)


def idle(row: Row) -> None:
    worse(row)
    if row["step"] > AT:
        share = 0.01 / (row["step"] - AT)
        row["moe.load"] = [[0.34, 0.33, 0.33 - share, share]] * 2


def collapsed(row: Row) -> None:
    worse(row)
    if row["step"] > AT:
        row["moe.load"] = [[0.94, 0.02, 0.02, 0.02]] * 2


def chooses(share: float) -> Callable[[Row], None]:
    def made(row: Row) -> None:
        row["mod.selected_ratio"] = [share, share]

    return made


FLAT = {"lr_scheduler": "constant"}
SMALL = {"micro_batch_size": 16, "global_batch_size": 48}
FIRST_RUN: dict[str, tuple[Callable[[Row], None], dict[str, Any], str, list[str]]] = {
    "slow convergence": (slow, {}, "slow_learning", ["raise_rate"]),
    "memory fills up": (
        filling, SMALL, "memory_leak", ["clear_cache", "smaller_micro_batch"]
    ),
    "an idle expert": (idle, {}, "dead_experts", ["router_jitter"]),
    "a plateau": (level, {}, "plateau", ["try_lower_rate"]),
    "uneven experts": (
        collapsed, {}, "expert_imbalance", ["router_jitter"]
    ),
    "the final phase": (level, FLAT, "plateau", ["final_reduction"]),
}  # fmt: skip
SECOND_RUN = {
    "a batch that does not fit": (
        filling, {"micro_batch_size": 8, "global_batch_size": 24},
        "memory_leak", ["clear_cache", "smaller_micro_batch"],
    ),
    "too few tokens computed": (
        chooses(0.2), {"mod": True}, "depth_routing", ["more_depth_capacity"]
    ),
    "too many tokens computed": (
        chooses(0.9), {"mod": True}, "depth_routing", ["less_depth_capacity"]
    ),
    "experts collapse": (
        collapsed, {}, "expert_imbalance", ["router_jitter"]
    ),
    "memory jumps": (
        squatter, SMALL, "memory_pressure", ["clear_cache", "smaller_micro_batch"]
    ),
}  # fmt: skip


def acted(case: Any) -> list[tuple[str, str, Any, Any]]:
    fault, changes, anomaly, actions = case
    made = rows()
    for row in made:
        fault(row)
    found = [one for one in decided(plan(**changes), made) if one[0] == anomaly]
    assert [one[1] for one in found][: len(actions)] == actions
    return found


@pytest.mark.covers("ORC-36")
@pytest.mark.parametrize("name", FIRST_RUN)
def test_the_first_run(name: str) -> None:
    found = acted(FIRST_RUN[name])
    if name == "slow convergence":
        assert found[0][3] / found[0][2] == pytest.approx(1.6)
    if name == "the final phase":
        assert "undo" not in [one[1] for one in found][:2]
    if name == "memory fills up":
        assert found[1][2:] == (16, 12)


@pytest.mark.covers(
    "ORC-37", "ORC-10", "PRC-18: memory pressure enables memory options"
)
@pytest.mark.parametrize("name", SECOND_RUN)
def test_the_second_run(name: str) -> None:
    found = acted(SECOND_RUN[name])
    if name == "a batch that does not fit":
        assert found[1][2:] == (8, 6)
    if name == "too few tokens computed":
        assert found[0][2:] == (0.5, 0.625)
    if name == "too many tokens computed":
        assert found[0][2:] == (0.5, 0.4)


def exploding(row: Row) -> None:
    if row["step"] > AT:
        row["grad_norm"] *= 20


def swinging(row: Row) -> None:
    if row["step"] > AT:
        row["loss"] *= 1.06 if row["step"] % 2 else 0.94


def overflowing(row: Row) -> None:
    if row["step"] > AT:
        row |= {"loss": float("nan"), "grad_norm": float("nan")}
        row["skipped"] = row["step"] - AT


WATCHED = {
    "gradient norm": (exploding, "exploding_gradients"),
    "loss smoothness": (swinging, "oscillation"),
    "stability": (overflowing, "nonfinite"),
    "memory": (filling, "memory_leak"),
}


@pytest.mark.covers(
    "PRC-18: monitors gradient norm, loss smoothness, stability, memory"
)
@pytest.mark.parametrize("what", WATCHED)
def test_what_a_run_in_half_precision_is_watched_for(what: str) -> None:
    """Each figure alone leads to a change; without it the same run is left alone."""
    disturb, anomaly = WATCHED[what]
    half = plan(compute_dtype="bfloat16", micro_batch_size=16, global_batch_size=48)
    made = rows()
    assert decided(half, made) == []
    for row in made:
        disturb(row)
    found = decided(half, made)
    assert found and found[0][0] == anomaly
    actions = [action for name, action, _, _ in found if name == anomaly]
    if what == "stability":
        assert actions[:2] == ["lower_rate", "compute_in_fp32"]
    if what == "memory":
        assert actions[:2] == ["clear_cache", "smaller_micro_batch"]


def test_a_run_without_trouble_is_left_alone() -> None:
    assert decided(plan(), rows()) == []
