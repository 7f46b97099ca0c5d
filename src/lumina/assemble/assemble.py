"""The two operations everything else is made of: `assemble` and `capture`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from lumina.assemble.bare_network import build
from lumina.assemble.beside_tensors import of_remains, scalars
from lumina.assemble.carry import CARRY, restore_carry, whole_carry
from lumina.assemble.frozen_model import SLOT as FROZEN
from lumina.assemble.host_copies import HostCopies, Wanted, has_room
from lumina.assemble.logical import (
    fill,
    join_fused,
    logical_names,
    share_out,
    split_fused,
)
from lumina.assemble.optimizers import (
    load_numbers,
    restore_state,
    split_state,
    states,
    still_state,
    whole_state,
)
from lumina.assemble.program import Program
from lumina.assemble.ranks import Ranks
from lumina.assemble.state_parts import BASE, lacks
from lumina.assemble.vocabulary_counts import NAME as COUNTS
from lumina.assemble.vocabulary_counts import SLOT as VOCABULARY
from lumina.errors import LuminaError
from lumina.model.declared import tensor_info
from lumina.model.freezing import frozen_parameters
from lumina.model.kinds.table import kinds_of
from lumina.model.spec import ModelSpec
from lumina.model.stored import declared_tensors
from lumina.optim.optimizer import Slot, local
from lumina.optim.paging.page import MASTER
from lumina.optim.sharded import whole
from lumina.plan.plan import Plan
from lumina.state.adapter_base import OnBase, open_base
from lumina.state.state import State, nothing
from lumina.state.weights import open_weights


class Source(Protocol):
    """Where a Program's tensors come from: a State in memory or a checkpoint."""

    def names(self) -> list[str]:
        """Logical names of the weights and persistent buffers."""

    def tensor(self, name: str) -> Tensor:
        """A weight or buffer, whole, on the CPU."""

    def optimizer_names(self, slot: str) -> list[str]:
        """Logical names that a slot (an optimizer's state, ema, carry) holds."""

    def optimizer_tensor(self, slot: str, name: str) -> Tensor:
        """A state or average, whole, on the CPU."""


@dataclass
class StateSource:
    """A State in memory as a `Source`."""

    state: State

    def names(self) -> list[str]:
        """Logical names of the weights and persistent buffers."""
        return list(self.state.tensors)

    def tensor(self, name: str) -> Tensor:
        """A weight or buffer."""
        return self.state.tensors[name]

    def optimizer_names(self, slot: str) -> list[str]:
        """Logical names that a slot holds."""
        return list(self.state.optimizer.get(slot, {}))

    def optimizer_tensor(self, slot: str, name: str) -> Tensor:
        """A state or average."""
        return self.state.optimizer[slot][name]


@dataclass
class Progress:
    """The part of a State that is not tensors, as the loop keeps it.

    Attributes:
        step: completed optimizer steps.
        tokens: tokens seen, without padding.
        skipped: steps whose gradients were not finite.
        cursor: position in the data.
        journal: changes made by controls.
        extra: anything a part of the loop needs back (best loss, patience).
    """

    step: int = 0
    tokens: int = 0
    skipped: int = 0
    cursor: dict[str, Any] = field(default_factory=dict)
    journal: list[dict[str, Any]] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)


def assemble(
    plan: Plan,
    source: Source | None = None,
    *,
    ranks: Ranks | None = None,
    meta: State | None = None,
) -> Program:
    """Realise a Plan, with the weights of a State or freshly initialised ones.

    Args:
        plan: what to build.
        source: weights and optimizer states by logical name; None initialises from the
            seed.
        ranks: this process's place; alone when absent.
        meta: the State's counters, restored into the optimizer; None takes weights
            only, with an optimizer that starts over (`--init-from`).

    Returns:
        A Program ready for its next step.

    Raises:
        LuminaError: E303 for missing or surplus tensors and for wrong shapes.
    """
    program = Program(plan, ranks or Ranks(), fresh=source is None)
    given = source
    if source is not None:
        source = on_base(plan, source)
        _check_names(plan.spec, source)
    program.materialise(source.tensor if source is not None else None)
    if source is not None and meta is not None:
        _restore_optimizer(program, source, meta)
    if source is not given and isinstance(source, OnBase):
        source.base.close()
    return program


def check_fits(plan: Plan, source: Source | None) -> None:
    """Refuse what `assemble` would refuse, without memory for a single tensor.

    Raises:
        LuminaError: E303 for missing or surplus tensors, E005 for `freeze`.
    """
    build(plan)
    frozen_parameters(plan.spec, plan.freeze)
    if source is not None:
        _check_names(plan.spec, on_base(plan, source))


def on_base(plan: Plan, source: Source) -> Source:
    """The source, with the base beside adapters that were saved alone.

    Raises:
        LuminaError: E104 or E303 where the base is not there, or is another one.
    """
    if not plan.adapter_base or set(source.names()) >= set(tensor_info(plan.spec)):
        return source
    opener = partial(open_weights, piecewise=bool(plan.base_storage))
    base = open_base(plan.adapter_base, opener)
    return OnBase(source, base, plan.adapter_base)


def _check_names(spec: ModelSpec, source: Source) -> None:
    """Every tensor of the model is in the source and nothing is left over."""
    expected = set(tensor_info(spec))
    found = set(source.names())
    if expected != found:
        missing, surplus = sorted(expected - found), sorted(found - expected)
        raise LuminaError(
            "E303",
            f"the weights do not fit the model: missing {missing[:5]}, "
            f"not expected {surplus[:5]}",
            "the settings of the model must be those the weights were made with",
        )


def _restore_optimizer(program: Program, source: Source, meta: State) -> None:
    """The optimizers' states and numbers, the average and the loss scale."""

    def reader(kind: str) -> Callable[[str], Tensor]:
        held = set(source.optimizer_names(kind))

        def read(name: str) -> Tensor:
            if name not in held:
                raise LuminaError(
                    "E303",
                    f"the checkpoint holds no {kind} for {name}",
                    "use --init-from to start from its weights alone",
                )
            return source.optimizer_tensor(kind, name)

        return read

    if not lacks(meta, "optimizer"):
        for slot, kind, declared in states(program.optimizer):
            restore_state(slot, kind, declared, reader(kind))
        load_numbers(program.optimizer, program.plan.optimizer, meta.extra)
    restore_carry(
        program,
        {n: source.optimizer_tensor(CARRY, n) for n in source.optimizer_names(CARRY)},
    )
    if program.average is not None:
        average = program.average
        if average.averages:  # otherwise made from the states of an optimizer
            _restore_copy(program, source, "ema", average.slots, average.averages)
        program.average.updates.fill_(meta.extra.get("average_updates", 0))
    if (base := program.base) is not None:
        _restore_copy(program, source, BASE, base.slots, base.weights)
    if program.frozen is not None:
        held = frozenset(source.optimizer_names(FROZEN))
        program.frozen.restore(held, lambda n: source.optimizer_tensor(FROZEN, n))
    if program.vocabulary is not None and source.optimizer_names(VOCABULARY):
        counts = source.optimizer_tensor(VOCABULARY, COUNTS)
        program.vocabulary.restore(counts, program.mesh.tokens.rank == 0)
    steps = meta.extra.get("gradient_steps", {})
    for name, step in zip(
        program.plan.gradient_steps, program.gradient_steps, strict=True
    ):
        if name in steps:  # one that was added now starts over
            step.load_scalars(steps[name])
    for name, memory in program.memories.items():
        if name in meta.extra:
            memory.load(meta.extra[name])
    if "loss_scale" in meta.extra:
        program.loss_scale.load(meta.extra["loss_scale"])
    _restore_live(program, meta)


def _restore_live(program: Program, meta: State) -> None:
    """What controls set; a setting that the Plan changes since then wins over them."""
    held, live = meta.extra.get("live", {}), program.live

    def stands(setting: str) -> bool:
        return bool(meta.plan.get(setting) == getattr(program.plan, setting))

    if "max_grad_norm" in held and stands("max_grad_norm"):
        live.max_grad_norm.fill_(held["max_grad_norm"])
    if "weight_decay" in held and stands("weight_decay"):
        live.weight_decay = held["weight_decay"]
    before = meta.plan.get("spec") or {}
    for kind in kinds_of(program.plan.spec):
        kind.restore_live(program, held, before)
    if "learning_rate_scale" in held and stands("learning_rate"):
        live.learning_rate_scale = held["learning_rate_scale"]
        for bend in ("rewarm", "glide"):
            if bend in held:
                begin, steps, share = held[bend]
                setattr(live, bend, (int(begin), int(steps), float(share)))


def _restore_copy(
    program: Program,
    source: Source,
    kind: str,
    slots: list[Slot],
    copies: list[Tensor],
) -> None:
    """A copy of the weights, such as their average.

    One that was switched on later starts at the weights.
    """
    held = set(source.optimizer_names(kind))
    for slot, copy in zip(slots, copies, strict=True):
        names = logical_names(slot.name, program.pieces)
        if not held.issuperset(names):
            continue
        value = join_fused(
            slot.name, program.pieces, lambda n: source.optimizer_tensor(kind, n)
        )
        fill(copy, slot.parameter.detach(), value)


def capture(
    program: Program,
    progress: Progress,
    *,
    config: dict[str, Any] | None = None,
    everything: bool = False,
    copies: HostCopies | None = None,
) -> State:
    """The State of a Program: logical, unsharded, float32, on the CPU, copied.

    Args:
        program: what to capture. Every rank must call this together.
        progress: counters and cursors to go with it.
        config: the run's settings, to be written beside it.
        everything: give every tensor to every rank; otherwise each rank gets those it
            is to write, so that the ranks share the work.
        copies: memory for the tensors that training changes, which are then copied
            while the next step computes: the State can be read after
            `State.arrived()`, and holds until the next capture with the same memory.
            None: everything is copied now.
    """
    if program.remains is not None:
        changed = {"journal": list(progress.journal), "extra": dict(progress.extra)}
        return of_remains(program, config=config or {}, **changed)
    program.merge()
    # Numbers first: read later, they would wait behind the copies of all tensors.
    numbers = scalars(program)
    if copies is None:
        tensors, moments = _tensors(program, everything)
    else:
        copies.begin()
        tensors, moments = _tensors(program, everything, copies.take)
        copies.end()
    return State(
        tensors=tensors,
        optimizer=moments,
        info={name: program.info[name] for name in tensors},
        counters={
            "step": progress.step,
            "tokens": progress.tokens,
            "skipped": progress.skipped,
        },
        cursor=dict(progress.cursor),
        journal=list(progress.journal),
        extra=dict(progress.extra) | numbers,
        spec=program.plan.spec.to_dict(),
        plan=program.plan.to_dict(),
        config=config or {},
        arrived=nothing if copies is None else copies.arrived,
    )


def wanted_copies(program: Program) -> list[Wanted]:
    """What `capture` would copy with `HostCopies`, where a rank holds all of it."""
    found: list[Wanted] = []

    def note(name: str, tensor: Tensor) -> Tensor:
        if tensor.device.type != "cpu":
            found.append((name, tensor.shape, tensor.dtype))
        return tensor.new_empty(0)

    _tensors(program, everything=False, copied=note)
    return found


def memory_for_copies(program: Program, *, ahead: bool = False) -> HostCopies | None:
    """Memory for captures beside the next steps; None where there is none.

    It is asked for once: where there is no room, later calls look no more.

    Args:
        program: what is captured.
        ahead: find the memory on a thread, before the first save.
    """
    if not program.copies_beside_steps:
        return None
    if program.host_copies is None:
        wanted = wanted_copies(program)
        program.copies_beside_steps = has_room(wanted, program.ranks.local_size)
        if not program.copies_beside_steps:
            return None
        program.host_copies = HostCopies(program.device)
        if ahead:
            program.host_copies.prepare(wanted)
    return program.host_copies


def other_memory_for_copies(program: Program) -> HostCopies | None:
    """The same while the last capture is being written: memory beside that of it.

    None where captures have no such memory. Whether there is room for a second one is
    for the caller to find out.
    """
    if memory_for_copies(program) is None:
        return None
    if program.spare_copies is None:
        program.spare_copies = HostCopies(program.device)
    one, other = program.host_copies, program.spare_copies
    program.host_copies, program.spare_copies = other, one
    return program.host_copies


def _tensors(
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
        full = whole(part, like) if still is None else still
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
