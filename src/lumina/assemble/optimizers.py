"""From a Plan's optimizers to objects, and between their states and logical tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lumina.assemble.logical import fill, join_fused, split_fused
from lumina.cache_root import cache_root
from lumina.errors import LuminaError
from lumina.model.declared import declared as declared_tensors
from lumina.model.kinds.adapters import adapter_rates
from lumina.optim.declared import Declared, StateTensor, chosen_optimizer
from lumina.optim.groups import (
    factor_of,
    optimizer_of,
    parse_factors,
    parse_groups,
)
from lumina.optim.optimizer import Member, Optimizer, Optimizers, Slot
from lumina.optim.paging.optimizer import Paged
from lumina.optim.resting import RestingExperts
from lumina.optim.sharded import is_sharded, whole
from lumina.optim.streamed_slot import StreamedSlot
from lumina.optim.units import OneByOne
from lumina.parallel.mesh import RankGroup
from lumina.plan.optimizers import values_of
from lumina.plan.plan import Plan
from lumina.plan.transfer import rate_factor


class _Share(NamedTuple):
    """What the tensors have in common that one object trains.

    Attributes:
        optimizer: its name.
        rate: what the learning rate is multiplied by.
        decay: what the weight decay is multiplied by.
    """

    optimizer: str
    rate: float = 1.0
    decay: float = 1.0

    @property
    def key(self) -> str:
        """The name, with the factors where there are any."""
        if self.rate == 1 and self.decay == 1:
            return self.optimizer
        return f"{self.optimizer} rate*{self.rate:g} decay*{self.decay:g}"


def make_optimizers(
    plan: Plan,
    slots: list[Slot],
    roles: Mapping[str, str],
    *,
    device: torch.device,
    ranks: RankGroup,
) -> Optimizers:
    """The optimizers of a Plan, each with the slots that its groups give it.

    A slot whose optimizer has a learning rate of 0 is left out: nothing trains it.

    Args:
        plan: names the optimizers, their groups and options.
        slots: the parameters that may train, in the network's order.
        roles: of each slot, by its name.
        device: where the optimizers' own numbers live.
        ranks: those among which the tokens of a step are divided.
    """
    groups = parse_groups(plan.optimizer_groups)
    rates = parse_factors(plan.group_learning_rates, "group_learning_rates")
    decays = parse_factors(plan.group_weight_decays, "group_weight_decays")
    own_rates = adapter_rates(plan.spec, declared_tensors(plan.spec))
    shares: dict[_Share, list[Slot]] = {_Share(plan.optimizer): []}
    for slot in slots:
        tensor = slot.matrix_names[0], roles[slot.name]
        optimizer = chosen_optimizer(
            optimizer_of(*tensor, plan.optimizer, groups, slot.parameter.ndim)
        )
        carried = 1.0
        if plan.lr_transfer:
            options = values_of(plan, optimizer)
            wide = plan.lr_transfer, declared_tensors(plan.spec)[slot.name]
            carried = rate_factor(*wide, optimizer, options)
        share = _Share(
            optimizer.name,
            factor_of(*tensor, rates) * carried * own_rates.get(slot.name, 1.0),
            factor_of(*tensor, decays) / carried,
        )
        shares.setdefault(share, []).append(slot)
    members = []
    for share, trained in shares.items():
        declared = chosen_optimizer(share.optimizer)
        values = values_of(plan, declared)
        rate = values.get("learning_rate")
        if not trained or rate == 0:
            continue
        factor = None if rate is None else rate / plan.learning_rate
        if share.rate != 1:
            factor = (1.0 if factor is None else factor) * share.rate
        members.append(
            Member(
                declared,
                _made(plan, declared, trained, values, device=device, ranks=ranks),
                rate=factor,
                weight_decay=values.get("weight_decay"),
                decay_factor=share.decay,
                key=share.key,
            )
        )
    taken = {slot.name for m in members for slot in m.optimizer.slots}
    made = Optimizers([slot for slot in slots if slot.name in taken], members)
    if plan.spec.moe is not None and plan.spec.moe.skip_unused:
        made.around = RestingExperts(
            [
                (slot, member.declared.states)
                for member in members
                for slot in member.optimizer.slots
                if roles[slot.name] == "expert"
            ]
        )
    return made


def _made(
    plan: Plan,
    declared: Declared,
    slots: list[Slot],
    values: Mapping[str, Any],
    *,
    device: torch.device,
    ranks: RankGroup,
) -> Optimizer:
    """An optimizer that works when, and whose states live where, the Plan says."""
    visits = declared.states or any(isinstance(one, StreamedSlot) for one in slots)
    if not visits or plan.optimizer_states_in == "device":
        # Tables of which a step uses a few rows gather their gradients at its end.
        if plan.updates_in_backward and slots[0].touched is None:
            return OneByOne(declared, slots, values, device=device, ranks=ranks)
        made: Optimizer = declared.cls(slots, values, device=device, ranks=ranks)
        return made
    return Paged(
        declared,
        slots,
        values,
        device=device,
        ranks=ranks,
        place=plan.optimizer_states_in,
        folder=Path(plan.offload_folder or cache_root() / "offload"),
        masters=plan.masters_beside,
    )


def states(optimizers: Optimizers) -> Iterator[tuple[Slot, str, StateTensor]]:
    """Every state of every slot: the slot, the state's name and its declaration."""
    for member in optimizers.members.values():
        for slot in member.optimizer.slots:
            for name, declared in member.declared.states.items():
                if name in slot.state:
                    yield slot, name, declared


def whole_state(slot: Slot, name: str, declared: StateTensor) -> Tensor:
    """A slot's state, unsharded; every rank must call this."""
    value = slot.state[name]
    like = slot.parameter.detach()
    return whole(value, like, slot.order) if declared.shares(0, like.ndim) else value


def still_state(slot: Slot, name: str) -> Tensor | None:
    """A slot's state in memory that no step changes; None: it has to be copied.

    Of a weight that is divided over ranks, nothing but a copy is whole.
    """
    if slot.still is None or is_sharded(slot.parameter):
        return None
    return slot.still(slot, name)


def split_state(slot: Slot, value: Tensor, declared: StateTensor) -> dict[str, Tensor]:
    """The whole state of a slot by logical name.

    Along an axis that it does not share with a fused parameter it is not divided: each
    logical tensor then has a copy.
    """
    pieces = slot.pieces
    if pieces is None:
        return {slot.name: value}
    if not declared.shares(pieces.dim, slot.parameter.ndim):
        return dict.fromkeys(pieces.names, value)
    return split_fused(slot.name, value, {slot.name: pieces})


def restore_state(
    slot: Slot,
    name: str,
    declared: StateTensor,
    read: Callable[[str], Tensor],
) -> None:
    """The inverse of `split_state` and `whole_state`.

    Args:
        slot: the slot that gets the state.
        name: the name of the state.
        declared: its declaration.
        read: logical name -> the whole state, on the CPU.
    """
    like, pieces = slot.parameter.detach(), slot.pieces
    if pieces is None:
        value = read(slot.name)
    elif not declared.shares(pieces.dim, like.ndim):
        value = read(pieces.names[0])
    else:
        value = join_fused(slot.name, {slot.name: pieces}, read)
    target = slot.state[name]
    if declared.shares(0, like.ndim):
        fill(target, like, value, slot.order)
    else:
        with torch.no_grad():
            target.copy_(value)


def numbers(optimizers: Optimizers, main: str) -> dict[str, Any]:
    """What the optimizers hold beside the slots, for a State's `extra`. Synchronises.

    Args:
        optimizers: those of a Program.
        main: the one of `--optimizer`. Its numbers stand beside the others of the
            State, as optimizer_steps; those of groups stand under their names.
    """
    found = {
        name: {key: value.item() for key, value in member.optimizer.scalars().items()}
        for name, member in optimizers.members.items()
    }
    own = {f"optimizer_{key}": value for key, value in found.pop(main, {}).items()}
    beside = {name: values for name, values in found.items() if values}
    return own | {"optimizers": beside} if beside else own


def load_numbers(optimizers: Optimizers, main: str, extra: Mapping[str, Any]) -> None:
    """The inverse of `numbers`.

    Where tensors have other factors of the rate than before, the numbers are those of
    another object of the same optimizer: all of them count the same steps.
    """
    beside = extra.get("optimizers", {})
    for key, member in optimizers.members.items():
        name, wanted = member.declared.name, member.optimizer.scalars()
        own = {
            one: extra[f"optimizer_{one}"]
            for one in wanted
            if f"optimizer_{one}" in extra
        }
        held = own if key == main else beside.get(key, {})
        if wanted and not held:
            alike = [beside[k] for k in beside if k.split(" ")[0] == name]
            alike += [own] if name == main else []
            held = next(iter(alike), {})
        if missing := wanted.keys() - held.keys():
            raise LuminaError(
                "E303",
                f"the checkpoint holds no {min(missing)} of the optimizer {name}",
                "use --init-from to start from its weights alone",
            )
        member.optimizer.load_scalars(held)
