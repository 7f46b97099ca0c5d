"""A change carried out: a scalar that the next step reads, or another Program."""

from __future__ import annotations

import time

from lumina.assemble.assemble import Progress, StateSource, assemble, capture
from lumina.assemble.program import Program
from lumina.errors import LuminaError
from lumina.optim.schedule import learning_rate_at
from lumina.train.controls import EXPERTS, ROUTING, Change, Controls, edited
from lumina.train.depth_capacity import longer_ladder, set_capacity
from lumina.train.experts import check_experts, edited_experts, set_routing


def set_live(program: Program, controls: Controls, step: int, change: Change) -> None:
    """Write a scalar that the next step reads.

    Args:
        program: what trains.
        controls: the journal, which knows what an undo takes back.
        step: completed steps.
        change: one of `LIVE`; its `old` is filled in.
    """
    live = program.live
    if change.name == "learning_rate":
        _set_learning_rate(program, controls, step, change)
    elif change.name == "max_grad_norm":
        change.old = live.max_grad_norm.item()
        live.max_grad_norm.fill_(change.value)
    elif change.name in ROUTING:
        set_routing(program, change)
    elif change.name == "mod_capacity":
        set_capacity(program, change, step)
    else:
        change.old = live.weight_decay
        live.weight_decay = change.value


def _set_learning_rate(
    program: Program, controls: Controls, step: int, change: Change
) -> None:
    """The rate of the next step; the schedule goes on from there, scaled."""
    live = program.live
    scheduled = learning_rate_at(program.plan, step)
    change.old_scale = live.learning_rate_scale
    change.old = scheduled * live.learning_rate_scale
    undone = controls.applied(change.undoes)
    if undone is not None and undone.old_scale is not None:
        live.learning_rate_scale = undone.old_scale
        change.value = scheduled * undone.old_scale
    elif scheduled > 0:
        live.learning_rate_scale = change.value / scheduled
    else:
        raise LuminaError(
            "E005",
            f"the schedule is at 0 after step {step}",
            "a factor on 0 changes nothing: set --min-lr above 0",
        )


def assembled_again(program: Program, progress: Progress, change: Change) -> Program:
    """Capture, edit the Plan or the State, assemble. Every rank calls it together.

    Args:
        program: what trained so far; closed here.
        progress: where the run is.
        change: what is edited; its `seconds` are filled in.
    """
    started = time.perf_counter()
    plan, ranks = program.plan, program.ranks
    surgical = change.name in EXPERTS
    if surgical:
        check_experts(plan, change)
    elif change.name == "mod_capacity":
        plan = longer_ladder(plan, change)
    else:
        plan = edited(plan, change)
    state = capture(program, progress, everything=True)
    if surgical:
        plan, state = edited_experts(plan, state, change)
    program.close()
    program = assemble(plan, StateSource(state), ranks=ranks, meta=state)
    # Rank 0's, for the ranks' journals are one.
    change.seconds = ranks.share(round(time.perf_counter() - started, 3))
    return program
