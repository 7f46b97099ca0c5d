"""The share of tokens that Mixture-of-Depths blocks take, changed while a job runs."""

from __future__ import annotations

from dataclasses import replace

from lumina.assemble.program import Program
from lumina.errors import LuminaError
from lumina.model.kinds.mod import capacity_at
from lumina.model.spec import ModSpec
from lumina.plan.make import with_spec
from lumina.plan.plan import Plan
from lumina.train.controls import Change


def off_ladder(program: Program, change: Change) -> bool:
    """Whether a capacity is none of those the Program was assembled with."""
    mod = program.plan.spec.mod
    if change.name != "mod_capacity" or mod is None:
        return False
    return float(change.value) not in mod.ladder


def set_capacity(program: Program, change: Change, step: int) -> None:
    """Take another share from the next step on; the old one goes in the change.

    Raises:
        LuminaError: E002 where no block chooses among tokens.
    """
    _depth(program.plan)
    change.old = capacity_at(program, step)
    program.live.mod_capacity = float(change.value)


def longer_ladder(plan: Plan, change: Change) -> Plan:
    """The Plan whose ladder has the capacity asked for.

    Raises:
        LuminaError: E002 where no block chooses among tokens.
    """
    mod = _depth(plan)
    ladder = tuple(sorted({*mod.ladder, float(change.value)}))
    return with_spec(plan, replace(plan.spec, mod=replace(mod, ladder=ladder)))


def _depth(plan: Plan) -> ModSpec:
    mod = plan.spec.mod
    if mod is None or mod.mode == "static":
        raise LuminaError(
            "E002",
            "no block of this model chooses among tokens",
            "train with --use-mod and --mod-mode dynamic",
        )
    return mod
