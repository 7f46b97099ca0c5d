"""The tensors of a Program as a State holds them: logical, whole, on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from lumina.assemble.carry import CARRY, whole_carry
from lumina.assemble.frozen_model import SLOT as FROZEN
from lumina.assemble.gradient_errors import held_errors
from lumina.assemble.logical import share_out, split_fused
from lumina.assemble.optimizers import split_state, states, still_state, whole_state
from lumina.assemble.program import Program
from lumina.assemble.state_parts import BASE
from lumina.assemble.vocabulary_counts import NAME as COUNTS
from lumina.assemble.vocabulary_counts import SLOT as VOCABULARY
from lumina.model.stored import declared_tensors
from lumina.optim.optimizer import Slot, local
from lumina.optim.paging.page import MASTER
from lumina.optim.sharded import whole


def captured_tensors(
    program: Program,
    everything: bool,
    copied: Callable[[str, Tensor], Tensor] | None = None,
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Weights and buffers; optimizer states, averages and carry; copied to the CPU.

    Args:
        program: what is captured.
        everything: as of `capture`.
        copied: what copies the tensors that only a step's update changes, under their
            names. Buffers and carries change in a forward and are copied at once.
    """
    copied = copied or (lambda name, tensor: _snapshot(tensor))
    ranks = program.ranks
    trained = {slot.name: slot for slot in program.optimizer.slots}
    parameters = dict(program.network.named_parameters())
    saved = parameters
    if program.plan.adapter_base:  # the base stays where it is
        saved = {n: p for n, p in parameters.items() if n in program.trained}
    sizes = [(name, p.numel()) for name, p in saved.items()]
    owner = share_out(sizes, ranks.world_size)
    tensors: dict[str, Tensor] = {}
    moments: dict[str, dict[str, Tensor]] = {}
    own = everything or ranks.main
    carry = {name: _snapshot(one) for name, one in whole_carry(program).items() if own}
    buffers = {n: _snapshot(one) for n, one in _buffers(program, parameters) if own}

    def keep(
        kind: str, name: str, part: Tensor, like: Tensor, still: Tensor | None = None
    ) -> None:
        into = moments.setdefault(kind, {}) if kind else tensors
        order = program.row_order.get(name)
        full = whole(part, like, order) if still is None else still
        if everything or owner.get(name, 0) == ranks.rank:
            for logical, piece in split_fused(name, full, program.pieces).items():
                into[logical] = (
                    copied(f"{kind}/{logical}", piece)
                    if still is None
                    else piece.contiguous()
                )

    program.optimizer.settle()
    for name, parameter in saved.items():
        slot = trained.get(name)
        like = (slot.parameter if slot else parameter).detach()
        still = still_state(slot, MASTER) if slot else None
        keep("", name, slot.master if slot else local(like), like, still)
        if slot is not None:
            slot.release()
    for slot, kind, declared in states(program.optimizer):
        held = moments.setdefault(kind, {})
        own_state = everything or owner[slot.name] == ranks.rank
        still = still_state(slot, kind) if own_state else None
        full = whole_state(slot, kind, declared) if still is None else still
        if own_state:
            for logical, piece in split_state(slot, full, declared).items():
                held[logical] = (
                    copied(f"{kind}/{logical}", piece)
                    if still is None
                    else piece.contiguous()
                )
    average, base = program.average, program.base
    copies: dict[str, tuple[list[Slot], Iterable[Tensor]]] = {}
    if average is not None:
        copies["ema"] = average.slots, average.values()
    if base is not None:
        copies[BASE] = base.slots, base.weights
    for kind, (slots, values) in copies.items():
        for slot, value in zip(slots, values, strict=True):
            keep(kind, slot.name, value, slot.parameter.detach())
    if program.vocabulary is not None:
        counts = program.vocabulary.whole(program.mesh.tokens)
        if everything or ranks.main:
            moments[VOCABULARY] = {COUNTS: _snapshot(counts)}
    if program.frozen is not None:
        for name, value in program.frozen.tensors():
            keep(FROZEN, name, value, value)
    moments |= held_errors(program, everything or ranks.main, _snapshot)
    tensors |= buffers
    if carry:
        moments[CARRY] = carry
    return tensors, moments


def _buffers(
    program: Program, parameters: dict[str, Any]
) -> Iterator[tuple[str, Tensor]]:
    for name, value in declared_tensors(program.network).items():
        if name not in parameters:
            yield name, value


def _snapshot(tensor: Tensor) -> Tensor:
    """A contiguous copy on the CPU that nothing else writes to."""
    tensor = tensor.detach()
    if tensor.device.type == "cpu":
        return tensor.clone(memory_format=torch.contiguous_format)
    return tensor.contiguous().cpu()
