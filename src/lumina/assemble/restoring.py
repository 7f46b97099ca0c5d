"""What training has learned beside the weights, from a State into a Program."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from lumina.assemble.carry import CARRY, restore_carry
from lumina.assemble.frozen_model import SLOT as FROZEN
from lumina.assemble.gradient_errors import restore_errors
from lumina.assemble.logical import fill, join_fused, logical_names
from lumina.assemble.optimizers import load_numbers, restore_state, states
from lumina.assemble.program import Program
from lumina.assemble.source import Source
from lumina.assemble.state_parts import BASE, lacks
from lumina.assemble.vocabulary_counts import NAME as COUNTS
from lumina.assemble.vocabulary_counts import SLOT as VOCABULARY
from lumina.errors import LuminaError
from lumina.model.kinds.table import kinds_of
from lumina.optim.optimizer import Slot
from lumina.state.state import State


def restore_training(program: Program, source: Source, meta: State) -> None:
    """Give a Program what its training had besides the weights.

    That is the optimizers' states and numbers, averages and copies of the weights,
    carries, the loss scale, and what controls have set. What was switched on since the
    State was saved begins anew.

    Args:
        program: with its weights.
        source: the tensors, by slot and logical name.
        meta: the State's numbers, and the Plan that it was saved under.

    Raises:
        LuminaError: E303 where a state of an optimizer is missing.
    """

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
        restore_errors(program, source, meta.extra)
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
        fill(copy, slot.parameter.detach(), value, slot.order)
