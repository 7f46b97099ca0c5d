"""Over how many processes experts are divided, what that saves, and what refuses it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from lumina.config import Config
from lumina.config.leaves import canonical
from lumina.errors import LuminaError
from lumina.ops.moe.placement import balanced
from lumina.plan.expert_parallel import automatic_size
from lumina.plan.figures import layout_of
from lumina.plan.memory import estimate
from lumina.plan.plan import Plan
from machines import cpu, gpu, plan_for

ROUTED: dict[str, Any] = {
    "vocab_size": 64,
    "steps": 10,
    "global_batch_size": 8,
    "use_moe": True,
    "num_experts": 32,
    "compile": False,
}


def planned(ranks: int, machine: Any = None, **options: Any) -> Plan:
    return plan_for(Config(**(ROUTED | options)), machine or cpu(), world_size=ranks)


@pytest.mark.covers("DST-11: automatic", "DST-11: 8 GPUs with 32 experts gives 4")
@pytest.mark.parametrize(
    ("experts", "ranks", "size"),
    [(32, 8, 4), (64, 8, 8), (16, 2, 2), (8, 8, 1), (24, 8, 2), (36, 6, 3), (32, 1, 1)],
)
def test_automatic_leaves_each_process_eight_experts(experts, ranks, size) -> None:
    assert automatic_size(experts, ranks) == size
    plan = planned(ranks, num_experts=experts, expert_parallel_size="auto",
                   global_batch_size=24)  # fmt: skip
    assert plan.expert_parallel_size == size
    assert plan.mesh_sizes.rows == ranks and plan.mesh_sizes.expert == size
    if 1 < size < ranks:
        assert f"{experts // size} each" in plan.reasons["expert_parallel_size"]


def test_automatic_leaves_alone_what_cannot_be_divided() -> None:
    assert planned(2, parallel="zero1", expert_parallel_size="auto").parallel == "zero1"
    dense = planned(2, use_moe=False, num_experts=None, expert_parallel_size="auto")
    assert dense.expert_parallel_size == 1
    assert "no routed experts" in dense.reasons["expert_parallel_size"]


@pytest.mark.parametrize(
    ("ranks", "options", "words"),
    [
        (3, {}, "multiple of 2 processes"),
        (1, {}, "multiple of 2 processes"),
        (2, {"use_moe": False, "num_experts": None}, "the model has none"),
        (2, {"num_experts": 9}, "does not divide 9 experts"),
        (2, {"parallel": "fsdp2"}, "does not divide experts over processes"),
        (2, {"stage3_param_persistence_threshold": 100}, "is for fsdp2"),
        (2, {"gradient_compression": "powersgd"}, "take apart gradients of experts"),
        (2, {"compile": True}, "known while a block runs"),
        (2, {"feedforward_tile": 16}, "tile by tile"),
        (2, {"use_peft": True, "init_from": "base"}, "adapters of experts"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(ranks, options, words) -> None:
    asked = {"expert_parallel_size": "2", "global_batch_size": 6} | options
    with pytest.raises(LuminaError, match=words) as caught:
        planned(ranks, **asked)
    assert caught.value.code == "E002"
    text = f"{caught.value.message} {caught.value.hint}".replace("-", "_")
    assert "expert_parallel_size" in text


@pytest.mark.covers("DST-11: expert_placement")
def test_the_other_name_of_the_policy_is_taken() -> None:
    assert canonical("expert_placement") == "expert_placement_policy"


def test_compiling_by_itself_gives_way_to_divided_experts() -> None:
    options = {"compile": None, "expert_parallel_size": "2"}
    plan = planned(2, gpu(), **options)
    assert plan.expert_parallel_size == 2 and not plan.compile
    assert any("compile is left out" in text for text in plan.warnings)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_each_process_keeps_its_share_of_weights_gradients_and_moments(
    precision: str,
) -> None:
    """Of float32 weights, and of casts and masters: three matrices an expert."""
    options = {"precision": precision, "gradient_checkpointing": "none"}
    plan = planned(4, expert_parallel_size="4", batch_size=1, **options)
    divided, moe = layout_of(plan), plan.spec.moe
    whole = replace(divided, expert_ranks=1)
    one, all_ = (estimate(plan.spec, layout) for layout in (divided, whole))
    assert moe is not None
    matrices = 3 * plan.spec.hidden_size * moe.intermediate_size * len(moe.layers)
    away = 24 * matrices
    saved = {name: all_[name] - one[name] for name in all_}
    assert saved["gradients"] == 4 * away and saved["optimizer"] == 8 * away
    kept = saved["weights"] + saved["master_weights"]
    assert kept == (4 if precision == "fp32" else 6) * away
    assert saved["communication"] < 0 and saved["bound"] > 0


def busiest(shares: Sequence[float], held: Sequence[int], ranks: int) -> float:
    """Rows of the rank that gets most, over the mean of all ranks.

    Args:
        shares: of each expert, its part of the rows.
        held: the expert of each slot, as `balanced` returns it.
        ranks: over which slots are divided.
    """
    each = len(held) // ranks
    total = sum(shares)
    sums = [
        sum(shares[expert] for expert in held[first : first + each])
        for first in range(0, len(held), each)
    ]
    return max(sums) * ranks / total if total else 1.0


@pytest.mark.covers("DST-11: expert_placement_policy balanced or memory_optimal")
@pytest.mark.parametrize("ranks", [2, 4])
def test_balanced_ranks_get_about_as_many_rows_and_as_many_experts(ranks) -> None:
    shares = [0.3, 0.25, 0.2, 0.1, 0.06, 0.05, 0.03, 0.01]
    held = balanced(shares, ranks)
    assert sorted(held) == list(range(8))
    assert busiest(shares, held, ranks) < busiest(shares, range(8), ranks)
    best = {2: 1.02, 4: 1.24}[ranks]
    assert busiest(shares, held, ranks) == pytest.approx(best)


def test_experts_used_alike_stay_in_their_order() -> None:
    assert balanced([0.25] * 4, 2) == [0, 1, 2, 3]
    assert busiest([0.25] * 4, [0, 1, 2, 3], 2) == 1
