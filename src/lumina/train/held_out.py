"""The held-out batches of one evaluation during training."""

from __future__ import annotations

from collections.abc import Iterator

from lumina.assemble.program import Program
from lumina.batch import Batch
from lumina.data.kind import Data, Share


def held_out_batches(data: Data, program: Program) -> Iterator[Batch]:
    """This rank's share of the held-out batches, the same rows on any split."""
    plan, ranks = program.plan, program.mesh.data
    rows = plan.eval_batches * plan.global_batch_size
    share = Share(
        seq_length=plan.spec.seq_length,
        batch_size=plan.micro_batch_size,
        limit=max(rows // plan.micro_batch_size, 1),
        rank=ranks.rank,
        data_ranks=ranks.size,
    )
    return map(program.row_parts.of, data.held_out(share))
