"""Rows to train on that a seed decides, or that were taken from data beforehand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lumina.batch import Batch
from lumina.data.stream import StepBatches
from lumina.errors import LuminaError
from lumina.plan.plan import Plan

DISTINCT = 8
"""Steps with rows of their own; later steps see the same rows again."""


def random_rows(plan: Plan, seed: int, steps: int = DISTINCT) -> Tensor:
    """Random tokens, [steps, rows of a step, S + 1] int64 on the CPU.

    Every row is one document of random tokens; a row has one token more than the model
    reads, the label of its last position.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (steps, plan.global_batch_size, plan.spec.seq_length + 1)
    return torch.randint(0, plan.spec.vocab_size, shape, generator=generator)


PREDICTABLE = 0.8
"""Share of the tokens of `patterned_rows` that the one before decides."""


def patterned_rows(plan: Plan, seed: int, steps: int = DISTINCT) -> Tensor:
    """Rows that can be learned from: mostly, a token follows a fixed other one.

    Args:
        plan: what they are for.
        seed: decides them; what follows what is the same for all seeds.
        steps: how many steps' rows.

    Returns:
        [steps, rows of a step, S + 1] int64 on the CPU.
    """
    fixed = torch.Generator().manual_seed(0)
    follows = torch.randperm(plan.spec.vocab_size, generator=fixed)
    rows = random_rows(plan, seed, steps)
    generator = torch.Generator().manual_seed(seed + 1)
    kept = torch.rand(rows.shape, generator=generator) < PREDICTABLE
    for place in range(1, rows.shape[-1]):
        told = follows[rows[..., place - 1]]
        rows[..., place] = torch.where(kept[..., place], told, rows[..., place])
    return rows


def as_batches(plan: Plan, rows_bs: Tensor, device: str = "cpu") -> StepBatches:
    """The rows [B, S + 1] of one step as the micro-batches of a training."""
    ids, labels = rows_bs[:, :-1].contiguous(), rows_bs[:, 1:].contiguous()
    parts = zip(
        ids.split(plan.micro_batch_size),
        labels.split(plan.micro_batch_size),
        strict=True,
    )
    return StepBatches(
        micro_batches=[Batch.from_rows(a, b).to(device) for a, b in parts],
        loss_tokens=ids.numel(),
        tokens=ids.numel(),
        cursor={},
        epoch=0.0,
        row_ids=[],
    )


class RandomFeed:
    """Random rows as the data of steps, on the device before anything is timed.

    Args:
        plan: what they are for.
        seed: decides them.

    Raises:
        LuminaError: E002 for a model that does not learn from plain rows of text.
    """

    def __init__(self, plan: Plan, seed: int) -> None:
        check_text(plan)
        self._steps = [
            as_batches(plan, rows, plan.device) for rows in random_rows(plan, seed)
        ]
        self._next = 0

    def next(self) -> tuple[StepBatches | None, float]:
        """The next step's rows; nothing is waited for."""
        found = self._steps[self._next % len(self._steps)]
        self._next += 1
        return found, 0.0

    def close(self) -> None:
        """Release the rows."""
        self._steps = []


def random_feed(seed: int) -> Callable[[Plan], RandomFeed]:
    """What makes the rows of a `Session`."""
    return lambda plan: RandomFeed(plan, seed)


def check_text(plan: Plan) -> None:
    """Refuse a model that does not learn from plain rows of text.

    Raises:
        LuminaError: E002.
    """
    spec = plan.spec
    if spec.solves_puzzles or getattr(spec, "tasks", None):
        what = "puzzles" if spec.solves_puzzles else "several tasks"
        raise LuminaError(
            "E002",
            f"the model learns from {what}, and the rows are random text",
            "name its data with --train-data",
        )
