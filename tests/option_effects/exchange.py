"""Options of how several processes exchange gradients and weights."""

from __future__ import annotations

from typing import Any

import pytest

from lumina.errors import LuminaError
from option_effects import Runs, shows
from option_effects.system import plan_of_two


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


def _refused(config: Any) -> str:
    with pytest.raises(LuminaError) as caught:
        plan_of_two(config)
    assert caught.value.code == "E002"
    return str(caught.value.message)
