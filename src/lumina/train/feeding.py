"""Between the data and the steps: what reads ahead, and what is known of a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina.assemble.assemble import Progress
from lumina.assemble.program import Program
from lumina.data.prefetch import Prefetcher
from lumina.data.stream import RowStream
from lumina.plan.schedule import learning_rate_at
from lumina.train.memory_ladder.recovery import MemoryRecovery


def feed_of(
    program: Program,
    stream: RowStream,
    progress: Progress,
    config: Mapping[str, Any],
    memory: MemoryRecovery,
) -> Prefetcher:
    """What makes the batches of the steps that follow, ahead of them.

    Args:
        program: takes them.
        stream: gives the rows.
        progress: where the run is.
        config: the run's settings.
        memory: says how many threads there is room for.
    """
    return Prefetcher(
        stream,
        progress.cursor,
        rank=program.mesh.data.rank,
        data_ranks=program.mesh.data.size,
        micro_batch_size=program.plan.micro_batch_size,
        depth=config["prefetch_factor"],
        threads=memory.threads(program.plan.prefetch_threads),
        pin=config["pin_memory"] is not False and program.device.type == "cuda",
    )


def known_of(
    program: Program, progress: Progress, batches: Any, waited: float
) -> dict[str, Any]:
    """What the host knows of the step just launched.

    Args:
        program: that takes it.
        progress: counts it.
        batches: of the step.
        waited: seconds for its data.
    """
    before = progress.step - 1
    rate = learning_rate_at(program.plan, before)
    return {
        "step": progress.step,
        "tokens": progress.tokens,
        "epoch": batches.epoch,
        "learning_rate": rate * program.live.rate_scale(before),
        "data_wait_seconds": waited,
        "step_tokens": batches.tokens,
        "loss_tokens": batches.loss_tokens,
        "facts": batches.facts,
        "held": program.held,
    }
