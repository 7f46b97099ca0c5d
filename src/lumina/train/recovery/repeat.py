"""The check for silent corruption: the same gradients, computed twice, bit for bit.

A device that computes wrongly now and then raises no error (Hochschild et al., "Cores
that don't count", 2021; Dixit et al., 2021, arXiv:2102.11245). Under deterministic
kernels a forward and backward over the same rows give the same bits, so two of them
that differ were computed wrongly at least once.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lumina.assemble.program import Program
from lumina.data.stream import StepBatches
from lumina.ops.seeding import seed_generators
from lumina.train.step import SCALARS, dropout_seed, forwards, losses_of


def ranks_that_differ(program: Program, batches: StepBatches, step: int) -> list[int]:
    """The ranks that compute the gradients of a step in two ways.

    Nothing of the program changes, and the step that follows is the one that would have
    been. All ranks call it together. Where each rank holds a part of every parameter,
    an error reaches the gradients of all of them, and all are named.

    Args:
        program: what trains.
        batches: of the step.
        step: completed steps.
    """
    first = _fingerprints(program, batches, step)
    again = _fingerprints(program, batches, step)
    differs = not torch.equal(first, again)
    ranks = program.ranks
    if ranks.world_size == 1:
        return [0] if differs else []
    found: list[Any] = [None] * ranks.world_size
    dist.all_gather_object(found, differs)
    return [rank for rank, one in enumerate(found) if one]


def _fingerprints(program: Program, batches: StepBatches, step: int) -> Tensor:
    """int64 on the device: a number for the losses, and one for each gradient."""
    carries, vocabulary = list(program.carries), program.vocabulary
    buffers = [(one, one.clone()) for one in program.network.buffers()]
    program.vocabulary = None  # which counts the tokens that it is shown
    seed_generators(dropout_seed(program.plan.seed, step, program.mesh.tokens.rank))
    for kind in program.kinds:
        kind.before(program, step)
    sums = torch.zeros(len(SCALARS) + len(program.terms), device=program.device)
    last = len(batches.micro_batches) - 1
    try:
        for index in range(last + 1):
            # Where ranks hold whole gradients each is compared with its own.
            for one in forwards(program, batches, index, step):
                final = one.last and index == last
                with program.gradient_sync(last=final and program.divided):
                    total, _ = losses_of(program, batches, index, sums, one)
                    (total * program.loss_scale.value).backward()
        prints = [_bits(one) for one in (sums, *program.optimizer.gradients())]
        return torch.stack(prints)
    finally:
        program.optimizer.zero_grad()
        program.carries[:] = carries
        program.vocabulary = vocabulary
        if program.logit_clip is not None:
            program.logit_clip.forget()
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _bits(tensor: Tensor) -> Tensor:
    """[] int64 that changes when any single bit of a tensor does."""
    flat = tensor.detach().contiguous().view(-1)
    return flat.view(_INTEGERS[flat.element_size()]).sum(dtype=torch.int64)
