"""The recurrent carry of a run, between the ranks that hold its rows and a State."""

from __future__ import annotations

import torch
from torch import Tensor

from lumina.assemble.program import Program
from lumina.parallel.mesh import RankGroup

CARRY = "carry"
"""The slot of a State that holds it: name -> [global batch, ...], row by row."""


def whole_carry(program: Program) -> dict[str, Tensor]:
    """Every rank's rows of every forward, in the order of the data; empty before any.

    A collective where there are several ranks.
    """
    held = [carry.tensors() for carry in program.carries if carry is not None]
    if not held:
        return {}
    mine = {name: torch.cat([c[name] for c in held]) for name in held[0]}
    return {name: _gathered(tensor, program.mesh.data) for name, tensor in mine.items()}


def _gathered(tensor: Tensor, ranks: RankGroup) -> Tensor:
    """The ranks' rows one after the other."""
    if ranks.size == 1:
        return tensor
    sent = tensor.to(torch.uint8) if tensor.dtype == torch.bool else tensor
    return ranks.stack(sent).flatten(0, 1).to(tensor.dtype)


def restore_carry(program: Program, held: dict[str, Tensor]) -> None:
    """Give this rank its rows back, divided over the forwards of a step.

    Where the global batch has grown, the rows it lacks start over.
    """
    if not held or not program.network.recurrent:
        return
    plan = program.plan
    rows = plan.micro_batch_size * plan.grad_accum
    first = program.mesh.data.rank * rows
    mine = {n: _padded(t[first : first + rows], rows) for n, t in held.items()}
    known = max(0, min(rows, len(next(iter(held.values()))) - first))
    added = torch.arange(rows, device=program.device) >= known
    for index in range(plan.grad_accum):
        part = slice(index * plan.micro_batch_size, (index + 1) * plan.micro_batch_size)
        values = {n: tensor[part].to(program.device) for n, tensor in mine.items()}
        carry = program.network.backbone.carry_from(values)
        carry.begin_anew(added[part])
        program.carries[index] = carry


def _padded(tensor: Tensor, rows: int) -> Tensor:
    """[rows, ...], filled up with zeros."""
    added = tensor.new_zeros((rows - len(tensor), *tensor.shape[1:]))
    return torch.cat((tensor, added))
