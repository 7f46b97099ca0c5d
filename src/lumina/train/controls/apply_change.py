"""A change carried out: the Program it needs, and its value set in it."""

from __future__ import annotations

import time

from lumina.assemble.assemble import Progress, assemble, capture
from lumina.assemble.emptying import empty_cache
from lumina.assemble.program import Program
from lumina.assemble.source import StateSource
from lumina.memory_shortage import shortage_code
from lumina.train.controls.change import Change
from lumina.train.controls.control import Control
from lumina.train.controls.features import check_restarts
from lumina.train.controls.journal import Controls
from lumina.train.controls.table import control_named


def program_for(
    program: Program, progress: Progress, controls: Controls, change: Change
) -> Program:
    """The Program in which a change can be set: this one, or another assembled for it.

    Args:
        program: what trains.
        progress: where the run is.
        controls: the journal of the run.
        change: its `old` is filled in, and its `seconds` where a Program is assembled.

    Raises:
        LuminaError: E002 for a change that this run cannot make.
    """
    control = control_named(change.name)
    control.check_plan(program.plan)
    change.old = control.now(program, progress.step)
    if control.fits(program, change.value):
        return program
    program = assembled_again(program, progress, control, change)
    set_again(program, controls)
    return program


def set_in(program: Program, step: int, controls: Controls, change: Change) -> None:
    """Set the value of a change in the Program that `program_for` gave."""
    undone = controls.applied(change.undoes)
    control_named(change.name).apply(program, change, step, undone)


def set_again(program: Program, controls: Controls) -> None:
    """Set in a newly assembled Program what earlier changes set in the one before."""
    for name, change in controls.standing().items():
        control = control_named(name)
        if not control.kept_in_state:
            control.set(program, change.value)


def assembled_again(
    program: Program, progress: Progress, control: Control, change: Change
) -> Program:
    """Capture, edit the Plan and the State, assemble. Every rank calls it together.

    Nothing of the old Program is on the device while the new one is built. Where that
    fails, the State stays with the old one (`Program.remains`): `revived` makes it
    train again. Where memory ran out, its Plan is that of the change by then, so that a
    further change can be made of it.

    Args:
        program: what trained so far; closed here.
        progress: where the run is.
        control: what is changed.
        change: its `seconds` are filled in.
    """
    started = time.perf_counter()
    ranks = program.ranks
    plan = control.edit(program.plan, change.value)
    check_restarts(program.plan, plan)
    held = capture(program, progress, everything=True)
    plan, state = control.operate(plan, held, change.value)
    program.close()
    program.remains = held
    try:
        again = assemble(plan, StateSource(state), ranks=ranks, meta=state)
    except Exception as error:
        if shortage_code(error) is not None and state is held:
            program.replan(plan)
        raise
    program.remains = None
    # Use rank 0's time so that all journals agree.
    change.seconds = ranks.share(round(time.perf_counter() - started, 3))
    return again


def revived(program: Program, controls: Controls) -> Program:
    """A Program that trains, after a change that came to nothing.

    Args:
        program: what trained before; where it was closed, it is assembled again.
        controls: the journal of the run.
    """
    state = program.remains
    if state is None:
        return program
    empty_cache()
    again = assemble(program.plan, StateSource(state), ranks=program.ranks, meta=state)
    program.remains = None
    set_again(again, controls)
    return again
