"""The steps whose memory is followed or measured, and the stages they fall into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from lumina.assemble.program import Program
from lumina.batch import Batch
from lumina.data.stream import StepBatches
from lumina.plan.plan import Plan
from lumina.train.step import train_step
from lumina.train.watch import Look, Watch

STAGES = ("forward", "backward", "optimizer", "evaluation")
"""What a step passes through, and the evaluation that may follow it."""

STEPS = 2
"""The first step makes what later ones find there; the second one is as all others."""


class StageEnds(Look):
    """Says when a stage of a step ends; the next one begins there.

    Args:
        ended: is given "begin", which belongs to no stage, or the stage.
    """

    name = "stage_ends"

    def __init__(self, ended: Callable[[str], None]) -> None:
        self._ended = ended

    def mark(self, moment: str) -> None:
        """See `Look.mark`."""
        self._ended(moment)


def take_steps(
    program: Program, ended: Callable[[str], None], *, steps: int = STEPS
) -> None:
    """Train on random tokens, then evaluate one batch.

    Args:
        program: ready to train.
        ended: is given the stage that has ended, as one of `STAGES`, or "begin".
        steps: how many are taken.
    """
    program.model.train()
    for step in range(steps):
        train_step(
            program, batches(program.plan), step, watch=Watch([StageEnds(ended)])
        )
    program.optimizer.settle()
    ended("begin")
    program.model.eval()
    with program.evaluation(), torch.no_grad():
        program.model(packed_rows(program.plan).to(program.device))
    ended("evaluation")


def batches(plan: Plan) -> StepBatches:
    """A step of random tokens in rows of two documents each, on the host."""
    tokens = plan.micro_batch_size * plan.spec.seq_length * plan.grad_accum
    micro = [packed_rows(plan) for _ in range(plan.grad_accum)]
    tasks = plan.spec.tasks
    shares: tuple[float, ...] = ()
    if tasks is not None:
        shares = tuple(tokens / len(tasks.names) for _ in tasks.names)
    return StepBatches(micro, tokens, tokens, {}, 0.0, [], task_loss_tokens=shares)


def packed_rows(plan: Plan) -> Batch:
    """Rows of two documents each, which is what a mask is needed for."""
    rows, length = plan.micro_batch_size, plan.spec.seq_length
    ids = torch.randint(plan.spec.vocab_size, (rows, length))
    batch = Batch.from_rows(ids, ids.roll(-1, 1))
    half = max(1, length // 2)
    columns = torch.arange(length)
    later = (columns >= half).long()
    starts = torch.arange(rows)[:, None] * length + torch.tensor([0, half])
    ends = torch.tensor([rows * length])
    batch = replace(
        batch,
        document_ids=later.expand(rows, length).clone(),
        position_ids=(columns - half * later).expand(rows, length).clone(),
        cu_seqlens=torch.cat([starts.flatten(), ends]).to(torch.int32),
        one_document_rows=False,
    )
    if plan.spec.tasks is not None:
        count = len(plan.spec.tasks.names)
        whole, rest = divmod(rows, count)
        batch = replace(
            batch, task_rows=tuple(whole + (i < rest) for i in range(count))
        )
    if plan.sources:
        batch = replace(batch, source_ids=torch.zeros(rows, dtype=torch.long))
    return batch


def random_weights(program: Program) -> Callable[[str], Tensor]:
    """Values of tensors, drawn on the program's device: logical name -> tensor.

    For memory only: drawing initial weights on the host takes longer than the steps.
    """
    from lumina.model.declared import logical_shapes

    shapes, device = logical_shapes(program.plan.spec), program.device

    def read(name: str) -> Tensor:
        return torch.randn(shapes[name], device=device).mul_(0.02)

    return read
