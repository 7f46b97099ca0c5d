"""Options of how several processes exchange gradients and weights."""

from __future__ import annotations

from typing import Any

import pytest

from lumina.errors import LuminaError
from lumina.plan.compressing import exchanged_bytes
from lumina.plan.count import count_small
from lumina.plan.exchanging import messages_of
from lumina.quantities import byte_size
from machines import gpu, plan_for
from option_effects import Runs, shows
from option_effects.system import plan_of_two
from tiny_runs import EXPERTS


@shows("gradients_reduced")
def reduced(runs: Runs) -> None:
    """Two processes keep whole gradients of two micro-batches, or half of them."""
    flat: dict[str, Any] = {"global_batch_size": 4, "batch_size": 1}
    once, each = (
        plan_of_two(runs.config(parallel="zero2", gradients_reduced=when, **flat))
        for when in ("step", "micro_batch")
    )
    assert (once.gradients_reduced, each.gradients_reduced) == ("step", "micro_batch")
    assert once.memory["gradients"] == 3 * each.memory["gradients"]
    ddp = runs.config(parallel="ddp", gradients_reduced="micro_batch", **flat)
    assert "once a step" in _refused(ddp)


@pytest.mark.covers("DST-04: overlap_comm", "DST-04: bucket sizes adjustable")
@shows("overlap_comm", "reduce_bucket_size", "allgather_bucket_size")
def messages(runs: Runs) -> None:
    """What is sent by them is tested in tests/parallel/test_exchange.py."""

    def plan(**leaves: Any) -> Any:
        return plan_of_two(runs.config(parallel="zero1", global_batch_size=8, **leaves))

    usual = plan()
    plans = (plan(reduce_bucket_size=1), usual, plan(overlap_comm=False))
    sizes = [one.memory["communication"] for one in plans]
    assert sizes == sorted(sizes) and sizes[0] < sizes[2]
    assert plan(allgather_bucket_size=9) == usual.replace(
        allgather_bucket_size=9,
        reasons=plan(allgather_bucket_size=9).reasons,
    )
    for name, value in (
        ("overlap_comm", False),
        ("reduce_bucket_size", 500_000_000),
        ("allgather_bucket_size", 500_000_000),
    ):
        for way in ("ddp", "zero2", "fsdp2"):
            options = {"parallel": way, "global_batch_size": 8, name: value}
            assert name in _refused(runs.config(**options))


@shows("stage3_param_persistence_threshold")
def persistent(runs: Runs) -> None:
    """That ranks learn what one process learns is in tests/parallel."""
    name = "stage3_param_persistence_threshold"

    def plan(way: str, below: int, precision: str = "fp32") -> Any:
        options = {"parallel": way, "global_batch_size": 8, name: below}
        options["precision"] = precision
        return plan_of_two(runs.config(**options))

    divided, norms = plan("fsdp2", 0), plan("fsdp2", 100)
    small = count_small(norms.spec, (), 100)
    assert 0 < small < norms.parameters // 20
    for part, size in (("weights", 4), ("gradients", 4), ("optimizer", 8)):
        assert norms.memory[part] - divided.memory[part] == size * small // 2
    assert plan("auto", 100).parallel == "fsdp2"
    casts = plan("fsdp2", 100, "bf16").memory["weights"]
    assert 0 < casts <= 2 * small and not plan("fsdp2", 0, "bf16").memory["weights"]
    for way in ("ddp", "zero1", "zero2"):
        options = {"parallel": way, "global_batch_size": 8, name: 100}
        assert name in _refused(runs.config(**options))
    alone = plan_for(runs.config(**{name: 100}))
    assert any(name in text for text in alone.warnings)


@pytest.mark.covers("DST-08: gradient_compression")
@shows(
    "gradient_compression", "gradient_compression_rank", "gradient_compression_start"
)
def compression(runs: Runs) -> None:
    """What is sent by them is tested in tests/parallel/test_low_rank.py."""

    def config(**leaves: Any) -> Any:
        flat = {"global_batch_size": 8, "steps": 40, "gradient_compression": "powersgd"}
        return runs.config(**(flat | leaves))

    plain = plan_of_two(config(gradient_compression="none"))
    plans = [plan_of_two(config(gradient_compression_rank=rank)) for rank in (2, 8)]
    sizes = [exchanged_bytes(plan) for plan in (*plans, plain)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[1] < sizes[2]
    assert {plan.parallel for plan in plans} == {"ddp"}
    for plan in plans:
        assert plan.memory["communication"] > plain.memory["communication"] == 0
        assert plan.gradient_compression_start == 4  # a tenth
        assert byte_size(exchanged_bytes(plan)) in plan.reasons["gradient_compression"]
        assert "times less" in plan.reasons["gradient_compression"]
    at_once = plan_of_two(config(gradient_compression_start=0))
    assert messages_of(at_once).low_rank_from == 0
    alone = plan_for(config())
    assert alone.gradient_compression == "none" and messages_of(alone).low_rank == 0
    assert any("one process sends nothing" in text for text in alone.warnings)
    for way in ("zero1", "zero2", "fsdp2", "independent"):
        with pytest.raises(LuminaError) as caught:
            plan_of_two(config(parallel=way))
        assert caught.value.code == "E002" and way in caught.value.message
        assert "--parallel ddp" in caught.value.hint
    with pytest.raises(LuminaError, match="loss scale"):
        narrow = config(precision="mixed_fp16", device="auto")
        plan_for(narrow, gpu(), world_size=2)
    unused = config(gradient_compression="none", gradient_compression_rank=2)
    assert any("gradient_compression_rank" in text for text in unused.warnings())


@pytest.mark.covers("DST-11: expert_parallel_size")
@shows("expert_parallel_size", "expert_placement_policy")
def experts_divided(runs: Runs) -> None:
    """What ranks compute then is tested in tests/parallel/test_expert_ranks.py."""
    flat: dict[str, Any] = {"global_batch_size": 4, "batch_size": 2} | EXPERTS
    whole, half = (
        plan_of_two(runs.config(expert_parallel_size=size, **flat)) for size in "12"
    )
    assert (whole.expert_parallel_size, half.expert_parallel_size) == (1, 2)
    assert half.parallel == "ddp" and half.data_parallel == 2
    assert half.memory["optimizer"] < whole.memory["optimizer"]
    flat["expert_parallel_size"] = "2"
    for policy in ("balanced", "memory_optimal"):
        plan = plan_of_two(runs.config(expert_placement_policy=policy, **flat))
        assert plan.expert_placement_policy == policy
    for way in ("zero1", "zero2", "fsdp2", "independent"):
        assert "does not divide experts" in _refused(runs.config(parallel=way, **flat))


def _refused(config: Any) -> str:
    with pytest.raises(LuminaError) as caught:
        plan_of_two(config)
    assert caught.value.code == "E002"
    return str(caught.value.message)
