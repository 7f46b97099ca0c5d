"""Experts that move from one process to another while a run trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from expert_ranks import redistributed
from lumina.errors import LuminaError
from lumina.train.controls import control_named
from lumina.train.health.watching import Finding
from lumina.train.orchestrator.actions import ACTIONS
from orchestrator_runs import Made, falling
from programs import conversations, tiny_plan
from training import in_processes


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return conversations(tmp_path_factory.mktemp("chats"))


def assert_as_if_nothing_moved(found: dict[int, dict[str, Any]]) -> None:
    """The State is the same to the bit, and all that is learned next up to rounding."""
    for rank in found.values():
        assert all(change["same"] for change in rank["changes"])
        torch.testing.assert_close(
            torch.tensor(rank["numbers"]),
            torch.tensor(rank["plain"]),
            rtol=1e-5,
            atol=0,
        )
        (tensors, moments), (wanted, states) = rank["state"], rank["wanted"]
        for key, one in wanted.items():
            left, right = torch.from_numpy(tensors[key]), torch.from_numpy(one)
            torch.testing.assert_close(left, right, rtol=2e-4, atol=2e-5, msg=key)
        for slot, held in states.items():
            for key, one in held.items():
                left, right = map(torch.from_numpy, (moments[slot][key], one))
                torch.testing.assert_close(left, right, rtol=2e-3, atol=2e-6)


@pytest.mark.thorough
@pytest.mark.covers(
    "DST-12: Expert redistribution on memory imbalance",
    "ORC-35: expert redistribution",
)
def test_experts_are_placed_anew_with_weights_and_moments(store: Any) -> None:
    """By the usage of the step before, on two ranks; and back into their order."""
    changes = [
        ("expert_placement_policy", "balanced"),
        ("expert_placement_policy", "memory_optimal"),
        ("expert_placement_policy", "balanced"),
    ]
    arguments = (store.folder, 2, 2, changes)
    found = dict(in_processes(redistributed, 2, *arguments, answers=2))
    assert_as_if_nothing_moved(found)
    for index, (_, policy) in enumerate(changes):
        both = [rank["changes"][index] for rank in found.values()]
        for layer in zip(*(one["holds"] for one in both), strict=True):
            assert sorted(layer[0] + layer[1]) == [0, 1, 2, 3]
        moved = any(one["holds"] != one["held"] for one in both)
        assert moved, policy
        ordered = found[0]["changes"][index]["holds"] == [[0, 1]] * len(
            both[0]["holds"]
        )
        assert ordered == (policy == "memory_optimal")


@pytest.mark.thorough
@pytest.mark.covers("ORC-35: expert parallel size")
def test_experts_are_divided_over_more_ranks_and_over_fewer(store: Any) -> None:
    """Two groups of two become one of four, of which each holds one expert."""
    changes = [("expert_parallel_size", 4), ("expert_parallel_size", 2)]
    changes.append(("expert_parallel_size", 4))
    arguments = (store.folder, 4, 2, changes)
    found = dict(in_processes(redistributed, 4, *arguments, answers=4))
    assert_as_if_nothing_moved(found)
    for rank in found.values():
        rows = [set(change["rows"]) for change in rank["changes"]]
        assert rows == [{1}, {2}, {1}]
        assert [change["old"] for change in rank["changes"]] == [2, 4, 2]


@pytest.mark.covers(
    "DST-12: Expert redistribution on memory imbalance",
    "ORC-35: expert parallel size",
    "ORC-35: expert redistribution",
)
def test_a_rank_that_is_fuller_than_the_others_leads_to_experts_elsewhere() -> None:
    """After unused memory was given back; only where experts are divided."""

    def decided(**plan: Any) -> list[str]:
        made = Made(moe=True, world_size=8, parallel="ddp", **plan)
        made.values |= {
            "memory_cache": "kept",
            "expert_placement_policy": "memory_optimal",
            "expert_parallel_size": made.plan.expert_parallel_size,
            "micro_batch_size": 1,
            "gradient_checkpointing": "full",
            "checkpoint": "none",
        }
        made.run(20, falling).run(60, falling, "memory_imbalance")
        return [action for _, action in made.decided()]

    assert decided(expert_parallel_size=2)[:4] == [
        "clear_cache", "redistribute_experts", "divide_experts_further",
        "save_checkpoint",
    ]  # fmt: skip
    assert decided()[:2] == ["clear_cache", "save_checkpoint"]


def test_experts_are_divided_as_far_as_experts_and_processes_go() -> None:
    finding = Finding("memory_risk", 1, "warning", 0.8, "made", {})
    action = ACTIONS["divide_experts_further"]
    plan = tiny_plan(moe=True, world_size=8, parallel="ddp", expert_parallel_size=2)
    proposal = action.proposal(finding, lambda _: 2, plan)
    assert proposal is not None and proposal.value == 4
    assert action.proposal(finding, lambda _: 4, plan) is None  # four experts
    control = control_named("expert_parallel_size")
    assert control.edit(plan, 4).expert_parallel_size == 4
    for size, why in ((8, "4 experts"), (3, "multiple of 3 processes")):
        with pytest.raises(LuminaError, match=why):
            control.edit(plan, size)
    for name in ("expert_parallel_size", "expert_placement_policy"):
        with pytest.raises(LuminaError, match="every process holds all experts"):
            control_named(name).check_plan(tiny_plan(moe=True))
        for value in (1, True, "4", "elsewhere"):
            with pytest.raises(LuminaError):
                control_named(name).check_value(value)
