"""Parts of a run that start over where it is resumed, and the record of that.

A run keeps them in `edits.json`: no checkpoint holds a reset until one is saved after
it, and the schedule of every later step follows from where it began.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lumina.assemble.state_parts import PARTS, without
from lumina.config import Config
from lumina.config.modifications import RESETS
from lumina.durable import write_error, write_file
from lumina.errors import LuminaError
from lumina.plan.decisions import Decisions
from lumina.plan.plan import Plan
from lumina.plan.schedule_choice import decide_schedule
from lumina.state import exact_json
from lumina.state.state import State

EDITS_NAME = "edits.json"


@dataclass(frozen=True)
class Edit:
    """A part of the State that starts over after a step.

    Attributes:
        step: completed steps when it did.
        part: a key of `PARTS`.
        time: Unix seconds.
    """

    step: int
    part: str
    time: float


def edits_at(
    run: Path, step: int, asked: Config, note: Callable[..., Any]
) -> tuple[Edit, ...]:
    """The edits that hold where a run goes on from a step, with those asked for now.

    A reset holds until the run goes back before it, or `--no-reset-...` takes it back
    at the same step.

    Args:
        run: its directory.
        step: of the checkpoint that it goes on from.
        asked: what was asked for now.
        note: called with the kind, severity, code, message and step of an event.

    Raises:
        LuminaError: E303 for a record that cannot be read.
    """
    switched = {
        part: asked.get(leaf)
        for leaf, part in RESETS.items()
        if asked.provenance[leaf].given
    }
    held = []
    for edit in read_edits(run):
        if edit.step > step:
            note(
                "edit_dropped",
                "info",
                None,
                f"{PARTS[edit.part][0]} was reset after step {edit.step:,}; the run "
                f"goes on from step {step:,}, before that",
                step,
            )
        elif edit.step < step or edit.part not in switched:
            held.append(edit)
    now = time.time()
    return (*held, *(Edit(step, part, now) for part, on in switched.items() if on))


def read_edits(run: Path) -> tuple[Edit, ...]:
    """The record of a run, the oldest first; empty for a run that was not edited.

    Raises:
        LuminaError: E303 for one that cannot be read.
    """
    file = run / EDITS_NAME
    try:
        entries = exact_json.loads(file.read_bytes())
        edits = tuple(Edit(**entry) for entry in entries)
        if all(e.part in PARTS and type(e.step) is int for e in edits):
            return edits
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, TypeError):
        pass
    raise LuminaError(
        "E303",
        f"{file} cannot be read, and it records which parts of the run were reset",
        "restore it from a copy; without it, remove it and give the --reset options "
        "again",
    )


def write_edits(run: Path, edits: Iterable[Edit]) -> None:
    """Replace the record of a run, durably and as a whole.

    Raises:
        LuminaError: where it cannot be written.
    """
    file, entries = run / EDITS_NAME, [asdict(edit) for edit in edits]
    if not entries and not file.exists():
        return
    try:
        write_file(file, (exact_json.dumps(entries, indent=1) + "\n").encode())
    except OSError as error:
        raise write_error(error, file) from error


def edited(state: State, edits: Iterable[Edit]) -> State:
    """The State to go on from: without what starts over at its step."""
    return without(state, [edit.part for edit in edits if edit.step == state.step])


def with_schedule_anew(plan: Plan, config: Config, edits: Iterable[Edit]) -> Plan:
    """The Plan, whose schedule begins where it was last reset.

    Raises:
        LuminaError: E002 for a schedule that spans several phases.
    """
    begin = max((edit.step for edit in edits if edit.part == "scheduler"), default=0)
    if begin <= plan.phase_begin:
        return plan
    if plan.schedule_steps:
        raise LuminaError(
            "E002",
            "one schedule spans all lengths of a row, and cannot restart in one of "
            "them",
            "leave --reset-scheduler out",
        )
    if begin >= plan.steps:
        return plan
    decisions = Decisions(
        values={
            name: getattr(plan, name)
            for name in ("learning_rate", "global_batch_size", "steps")
        }
        | {"epochs": None}
    )
    why = f"the schedule was restarted after step {begin:,}"
    decisions.decide("schedule_offset", -begin, why)
    decide_schedule(config, decisions)
    values = {
        name: value
        for name, value in decisions.values.items()
        if name in decisions.reasons and name != "schedule_batch"
    }
    reasons = {name: decisions.reasons[name] for name in values}
    return plan.replace(**values, reasons=plan.reasons | reasons)
