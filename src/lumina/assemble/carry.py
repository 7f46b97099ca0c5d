"""The recurrent carry of a run, between the ranks that hold its rows and a State."""

from __future__ import annotations

from dataclasses import fields

import torch
import torch.distributed as dist
from torch import Tensor

from lumina.assemble.program import Program
from lumina.model.hrm import Carry

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
    if program.ranks.world_size == 1:
        return mine
    return {name: _gathered(tensor, program) for name, tensor in mine.items()}


def _gathered(tensor: Tensor, program: Program) -> Tensor:
    """The ranks' rows one after the other."""
    sent = tensor.to(torch.uint8) if tensor.dtype == torch.bool else tensor
    parts = [torch.empty_like(sent) for _ in range(program.ranks.world_size)]
    dist.all_gather(parts, sent.contiguous())
    return torch.cat(parts).to(tensor.dtype)


def restore_carry(program: Program, held: dict[str, Tensor]) -> None:
    """Give this rank its rows back, divided over the forwards of a step.

    Where the global batch has grown, the rows it lacks begin with a new puzzle.
    """
    if not held or program.plan.spec.hrm is None:
        return
    plan = program.plan
    rows = plan.micro_batch_size * plan.grad_accum
    first = program.ranks.rank * rows
    mine = {n: _padded(t[first : first + rows], n, rows) for n, t in held.items()}
    for index in range(plan.grad_accum):
        part = slice(index * plan.micro_batch_size, (index + 1) * plan.micro_batch_size)
        values = {f.name: mine[f.name][part].to(program.device) for f in fields(Carry)}
        for name in ("z_h", "z_l"):
            values[name] = values[name].to(program.compute_dtype)
        program.carries[index] = Carry(**values)


def _padded(tensor: Tensor, name: str, rows: int) -> Tensor:
    """[rows, ...]; what is added has halted."""
    if len(tensor) == rows:
        return tensor
    added = tensor.new_zeros((rows - len(tensor), *tensor.shape[1:]))
    if name == "halted":
        added.fill_(True)
    return torch.cat((tensor, added))
