"""What a Program holds on its device, counted by its tensors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import Tensor

from lumina.model.host_table import beside_the_device
from lumina.optim.optimizer import local

if TYPE_CHECKING:
    from lumina.assemble.program import Program


def held_bytes(program: Program) -> dict[str, int]:
    """Bytes on this rank's device of "model", "optimizer" and "gradient".

    The model is its parameters, its buffers, and masters that are tensors of their own;
    the optimizer all states, with averages of the weights and the copy that training
    stays near; the gradient what a backward pass leaves of all trained parameters, and
    the float32 sums of several. States and masters that come to the device in pages are
    not among them.
    """
    network = program.network
    slots = program.optimizer.slots
    here = [slot for slot in slots if slot.still is None]
    masters = [slot.master for slot in here if slot.keeps_master]
    aside = {id(tensor) for tensor in beside_the_device(network)}
    own = [p for p in network.parameters() if id(p) not in aside]
    model = [local(p.detach()) for p in own]
    buffers = [one for one in network.buffers() if id(one) not in aside]
    optimizer = [one for slot in here for one in slot.state.values()]
    if program.average is not None:
        optimizer += getattr(program.average, "averages", [])
    if program.base is not None:
        optimizer += program.base.weights
    if program.frozen is not None:
        optimizer += [tensor for _, tensor in program.frozen.tensors()]
    accumulated = [slot.accumulator for slot in slots if slot.accumulator is not None]
    accumulated += program.way.sums()
    # Where only states are divided, gradients leave as they come.
    stay = program.sharded or not program.divided
    passing = sum(
        local(slot.parameter.detach()).numel() * slot.parameter.element_size()
        for slot in slots
        if slot.touched is None and stay
    )
    return {
        "model": _bytes([*model, *masters, *buffers]),
        "optimizer": _bytes(optimizer),
        "gradient": passing + _bytes(accumulated),
    }


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages of these tensors on the device, each counted once."""
    storages = {one.untyped_storage().data_ptr(): one for one in tensors}
    return sum(one.untyped_storage().nbytes() for one in storages.values())
