"""The slots of a Program: what trains, its master, and where its gradient gathers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lumina.assemble.streamed.blocks import homes_of
from lumina.optim.held_weights import HeldSlot
from lumina.optim.leaving import Leaving
from lumina.optim.optimizer import Slot, local
from lumina.optim.sharded import rows_here
from lumina.optim.streamed_slot import StreamedSlot, leaves_when_complete

if TYPE_CHECKING:
    from lumina.assemble.program import Program


def make_slots(program: Program) -> list[Slot]:
    """A slot for each parameter that trains, in the network's order.

    The network's weights take the type that they are kept in.

    Args:
        program: whose weights have their values. Its `hooks` get those that gather
            gradients.
    """
    plan = program.plan
    narrow = program.kept_in != torch.float32
    accumulate = narrow and (plan.grad_accum > 1 or plan.chunk_size > 0)
    held = program.weights_dtype != torch.float32
    slots: list[Slot] = []
    exact, homes = program.exact(), homes_of(program.network)
    for name, parameter in program.network.named_parameters():
        master = local(parameter.detach())
        table = program.tables.get(name)
        apart = narrow and name not in exact
        if apart and (held or plan.spec.adapters or name in program.trained):
            parameter.data = master.to(program.kept_in)
        if name not in program.trained:
            continue
        streamed = name in homes
        slot = (StreamedSlot if streamed else HeldSlot if held and apart else Slot)(
            name=name,
            parameter=parameter,
            master=master,
            decay=parameter.ndim >= 2 and not program.partly_frozen(name),
            pieces=program.pieces.get(name),
            order=program.row_order.get(name),
        )
        if table is not None:
            slot.touched = []
        elif program.divided and not program.sharded:
            _divide(slot, program, adds_up=accumulate and apart)
        if isinstance(slot, StreamedSlot):
            slot.home = homes[name]
            if not plan.updates_in_backward:
                wide = torch.float32 if accumulate else parameter.dtype
                program.leaving = program.leaving or Leaving(program.device)
                leave = leaves_when_complete(slot, program.leaving, wide)
                program.hooks.append(
                    parameter.register_post_accumulate_grad_hook(leave)
                )
        elif accumulate and apart and slot.accumulator is None:
            slot.accumulator = torch.zeros_like(master)
            program.hooks.append(
                parameter.register_post_accumulate_grad_hook(_gather_into(slot))
            )
        slots.append(slot)
    return slots


def _divide(slot: Slot, program: Program, *, adds_up: bool) -> None:
    """Leave to the slot the rows that this rank trains of its parameter."""
    master = slot.master
    slot.parameter, slot.accumulator = program.way.part(slot.parameter, adds_up=adds_up)
    slot.master = local(slot.parameter.detach())
    if slot.parameter.dtype != master.dtype:
        slot.master = master[rows_here(slot.parameter)].clone()


def _gather_into(slot: Slot) -> Callable[[Tensor], None]:
    """A hook that adds a half-precision gradient to the float32 sum at once."""

    # A parameter keeps its hooks where Python's collector does not look: a hook that
    # kept the slot, and with it the parameter, would keep all of the run's tensors.
    accumulator = slot.accumulator
    assert accumulator is not None

    def gather(parameter: Tensor) -> None:
        assert parameter.grad is not None
        accumulator.add_(parameter.grad)
        parameter.grad = None

    return gather
