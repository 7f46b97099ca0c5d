"""The held-out batches of one evaluation during training."""

from __future__ import annotations

from collections.abc import Iterator

from lumina.assemble.program import Program
from lumina.batch import Batch
from lumina.data.arc import ArcTests
from lumina.data.puzzles import PuzzleStore, eval_puzzles
from lumina.data.store import TokenStore
from lumina.data.stream import eval_batches
from lumina.data.task_stream import eval_task_batches
from lumina.data.tasks import TaskStores


def held_out_batches(
    held_out: TokenStore | PuzzleStore | ArcTests | TaskStores, program: Program
) -> Iterator[Batch]:
    """This rank's share of the held-out batches, the same rows on any split."""
    plan, data = program.plan, program.mesh.data
    size = plan.micro_batch_size
    rows = plan.eval_batches * plan.global_batch_size
    if isinstance(held_out, PuzzleStore | ArcTests):
        return eval_puzzles(
            held_out,
            size,
            max(rows // size, 1),
            rank=data.rank,
            world_size=data.size,
        )
    if isinstance(held_out, TaskStores):
        assert plan.spec.tasks is not None
        return eval_task_batches(
            held_out,
            plan.spec.tasks.names,
            plan.spec.seq_length,
            size,
            max(rows // size, 1),
            rank=data.rank,
            world_size=data.size,
        )
    return eval_batches(
        held_out,
        plan.spec.seq_length,
        size,
        max(rows // size, 1),
        rank=data.rank,
        world_size=data.size,
    )
