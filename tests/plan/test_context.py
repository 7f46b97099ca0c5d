"""How many ranks share each row, and what that leaves to each of them."""

from __future__ import annotations

from typing import Any

import pytest

from lumina.config import Config
from lumina.errors import LuminaError
from lumina.plan.context import LONG
from lumina.plan.plan import Plan
from machines import gpu, plan_for


def planned(world_size: int = 4, **options: Any) -> Plan:
    values: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 64,
        "num_layers": 2,
        "intermediate_size": 128,
        "steps": 10,
        "use_mor": False,
        "compile": False,
    }
    return plan_for(Config(**values | options), gpu(), world_size=world_size)


@pytest.mark.covers("DST-09: automatic above 256K")
@pytest.mark.parametrize(
    ("length", "world_size", "ranks"),
    [
        (LONG, 4, 1),
        (LONG + 8, 4, 2),
        (2 * LONG + 8, 4, 4),
        (8 * LONG, 4, 4),
        (LONG + 8, 3, 3),
        (LONG + 8, 1, 1),
    ],
)
def test_ranks_share_rows_that_are_longer_than_256k(
    length: int, world_size: int, ranks: int
) -> None:
    plan = planned(world_size, seq_length=length)
    assert plan.context_parallel == ranks
    assert plan.data_parallel == world_size // ranks
    assert plan.global_batch_size % plan.data_parallel == 0
    assert (plan.attention == "blockwise") == (ranks > 1)
    assert plan == Plan.from_dict(plan.to_dict())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"use_mod": True}, "mixture_of_depths"),
        ({"attention": "sdpa"}, "sdpa"),
        ({"window_size": 64, "attention_dilation": 32}, "dilation"),
        ({"parallel": "independent"}, "independent"),
        ({"use_chunked_training": True}, "chunked_training"),
        ({"gradient_compression": "powersgd"}, "gradient_compression"),
    ],
)
def test_what_has_no_parts_of_rows_keeps_them_whole(
    options: dict[str, Any], words: str
) -> None:
    """Nobody asked for it, so nothing is refused, and the reason is told."""
    plan = planned(2, seq_length=LONG + 8, **options)
    assert plan.context_parallel == 1
    assert any(words in one and "not divided" in one for one in plan.warnings)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"context_parallel": 3}, "4 processes cannot be divided into groups of 3"),
        ({"context_parallel": 4, "seq_length": 7}, "a row has 7 tokens"),
        ({"attention": "flash2"}, "attention flash2"),
        ({"window_size": 8, "attention_dilation": 4}, "attention_dilation"),
        ({"parallel": "independent"}, "independent has each process train rows"),
        ({"use_mod": True}, "use_mod"),
        ({"use_mor": True}, "use_mor"),
        ({"use_hrm": True}, "use_hrm"),
        ({"use_moe": True, "moe_dispatch": "capacity"}, "whole row"),
        ({"qk_clip": 100.0}, "qk_clip"),
        ({"compile": True}, "compile"),
        (
            {"use_moe": True, "num_experts": 8, "expert_parallel_size": "2"},
            "expert_parallel_size 2",
        ),
        ({"gradient_compression": "powersgd"}, "gradient_compression"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(
    options: dict[str, Any], words: str
) -> None:
    with pytest.raises(LuminaError) as caught:
        planned(**{"context_parallel": 2, "seq_length": 256} | options)
    assert caught.value.code == "E002"
    assert words in caught.value.message
    assert caught.value.hint


def test_blocks_are_not_compiled() -> None:
    """Elsewhere compiling is chosen by itself; the plan says why not here."""
    assert planned(seq_length=256, compile=None).compile
    plan = planned(seq_length=256, compile=None, context_parallel=2)
    assert not plan.compile and "exchanges" in plan.reasons["compile"]


def test_processes_that_share_rows_hold_every_expert() -> None:
    """So `expert_parallel_size auto` is 1 there."""
    options = {
        "use_moe": True,
        "num_experts": 32,
        "expert_parallel_size": "auto",
        "seq_length": 256,
        "parallel": "ddp",
    }
    assert planned(**options).expert_parallel_size == 4
    plan = planned(context_parallel=2, **options)
    assert plan.expert_parallel_size == 1
    assert "share rows" in plan.reasons["expert_parallel_size"]


@pytest.mark.covers("DST-15")
def test_activations_are_divided_and_weights_are_not() -> None:
    """DDP alone leaves each rank whole rows; ranks that share them have parts."""
    same = {"seq_length": 8192, "batch_size": 1, "gradient_checkpointing": "none"}
    data = planned(global_batch_size=4, parallel="ddp", **same)
    shared = planned(global_batch_size=1, parallel="ddp", context_parallel=4, **same)
    parts = planned(1, global_batch_size=1, **same | {"seq_length": 2048})
    for name in ("weights", "master_weights", "gradients", "optimizer"):
        assert shared.memory[name] == data.memory[name]
    assert shared.memory["activations"] == parts.memory["activations"]
    assert shared.memory["logits"] == parts.memory["logits"]
    assert 3.9 < data.memory["activations"] / shared.memory["activations"] < 4.1
    assert shared.memory["working"] > parts.memory["working"]


def test_sharded_weights_are_divided_over_all_ranks() -> None:
    same = {"seq_length": 256, "batch_size": 1, "parallel": "fsdp2"}
    data = planned(global_batch_size=4, **same)
    shared = planned(global_batch_size=2, context_parallel=2, **same)
    assert shared.memory["optimizer"] == data.memory["optimizer"]
    assert shared.memory["weights"] == data.memory["weights"]
