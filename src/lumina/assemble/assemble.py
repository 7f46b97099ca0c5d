"""The two operations everything else is made of: `assemble` and `capture`."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from lumina.assemble.bare_network import build
from lumina.assemble.beside_tensors import of_remains, scalars
from lumina.assemble.captured_tensors import captured_tensors
from lumina.assemble.host_copies import HostCopies, Wanted, has_room
from lumina.assemble.program import Program
from lumina.assemble.ranks import Ranks
from lumina.assemble.restoring import restore_training
from lumina.assemble.source import Source
from lumina.errors import LuminaError
from lumina.model.declared import tensor_info
from lumina.model.freezing import frozen_parameters
from lumina.model.spec import ModelSpec
from lumina.plan.plan import Plan
from lumina.state.adapter_base import OnBase, open_base
from lumina.state.state import State, nothing
from lumina.state.weights import open_weights


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
        restore_training(program, source, meta)
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
        tensors, moments = captured_tensors(program, everything)
    else:
        copies.begin()
        tensors, moments = captured_tensors(program, everything, copies.take)
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

    captured_tensors(program, everything=False, copied=note)
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
