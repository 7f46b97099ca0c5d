"""Whether features can be planned together on a machine, before a row of them runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

from lumina.config import Config
from lumina.errors import LuminaError
from lumina.model.registry import load_plugins
from lumina.plan.environment import Environment
from lumina.plan.make import make_plan
from lumina.plan.plan import Plan
from lumina.train.matrix.cell import Cell, idle_features, told_idle
from lumina.train.matrix.covering import Together
from lumina.train.matrix.setting import MODEL, TRIED_PARTS, placed


def planned_cell(cell: Cell, machine: Environment) -> Plan | LuminaError:
    """The plan of a cell on a machine, or why there is none.

    Nothing is read or built, so that it takes hundredths of a second where a run that
    is refused takes seconds. A run may still be refused for what only it can know.

    Args:
        cell: without a name; the vocabulary is that of `MODEL`.
        machine: that it would run on.
    """
    _parts_are_there()
    places = {"parts": str(TRIED_PARTS)}
    leaves = {name: placed(one, places) for name, one in cell.leaves.items()}
    options = {name: one for name, one in leaves.items() if one is not None}
    try:
        plan = make_plan(
            Config(**options, device=machine.device),
            replace(machine, local_processes=cell.ranks),
            tokenizer_vocab_size=MODEL["tokenizer_vocab_size"],
            rows_per_epoch=None,
            world_size=cell.ranks,
        )
    except LuminaError as error:
        return error
    return plan


def idle_in(cell: Cell, machine: Environment) -> str:
    """Which features of a cell would have nothing to do, and why; "": none."""
    plan = planned_cell(cell, machine)
    return "" if isinstance(plan, LuminaError) else told_idle(idle_features(plan))


def planned_on(machine: Environment) -> Callable[[Together], bool]:
    """Whether a machine's plan takes features together, and has work for each.

    A set is asked for once.
    """

    @cache
    def planned(features: Together) -> bool:
        found = planned_cell(Cell(features), machine)
        return not isinstance(found, LuminaError) and not idle_features(found)

    return planned


@cache
def _parts_are_there() -> None:
    """What cells register is known where they are planned."""
    load_plugins([str(TRIED_PARTS)])
