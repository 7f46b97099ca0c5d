"""What happened in a run, in the order in which it happened.

A resume goes on from a checkpoint, and what came after that checkpoint is not part of
the run any more. A rollback while the run goes on is part of it: the steps before and
after it were both taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lumina.plan.plan import Plan
from lumina.state.decisions_made import ROLLED_BACK
from lumina.state.earlier_plans import plans_of
from lumina.state.events import read_events
from lumina.state.json_lines import read_json_lines
from lumina.state.metrics import read_metrics
from lumina.state.run_directory import RunDirectory

Row = Mapping[str, Any]
Event = Mapping[str, Any]


@dataclass
class Pass:
    """Steps that were taken one after another, between two rollbacks.

    Attributes:
        rows: in order.
        changes: completed steps -> the events of controls applied there, in order.
        back_to: the step that the rollback at its end goes to; None at the end.
        factor: on the learning rate, of that rollback.
    """

    rows: list[Row] = field(default_factory=list)
    changes: dict[int, list[Event]] = field(default_factory=dict)
    back_to: int | None = None
    factor: float = 1.0


@dataclass(frozen=True)
class History:
    """A run in the order in which it happened.

    Attributes:
        passes: divided by rollbacks.
        plans: (last step that it holds for, plan) each; the last has None.
        phases: completed steps at which a phase of the run begins.
        last: the last step that has a row.
    """

    passes: list[Pass]
    plans: list[tuple[int | None, Plan]]
    phases: frozenset[int]
    last: int

    @property
    def targets(self) -> frozenset[int]:
        """Steps that the run was taken back to."""
        steps = (one.back_to for one in self.passes)
        return frozenset(step for step in steps if step is not None)


def history_of(run: RunDirectory) -> History:
    """Read a run directory.

    Raises:
        LuminaError: E104 for a missing file, E101 for a broken one.
    """
    events = _standing(read_events(run.path))
    rows = read_metrics(run.path)
    backs = [event for event in events if _is_rollback(event)]
    passes = [Pass() for _ in range(len(backs) + 1)]
    place = 0
    for event in events:
        if _is_rollback(event):
            passes[place].back_to = event["step"]
            passes[place].factor = float(event["data"].get("learning_rate_factor", 1))
            place += 1
        elif event.get("kind") == "control":
            passes[place].changes.setdefault(event["step"], []).append(event)
    _give_rows(run, passes, backs, rows)
    phases = {
        event["step"]
        for event in events
        if event.get("kind") == "phase_begins" and type(event.get("step")) is int
    }
    plans = [(until, Plan.from_dict(values)) for until, values in plans_of(run)]
    last = int(rows[-1]["step"]) if rows else 0
    return History(passes, plans, frozenset(phases), last)


def _is_rollback(event: Event) -> bool:
    """Whether a running run was taken back; one by hand is followed by a resume."""
    data = event.get("data")
    there = event.get("kind") == ROLLED_BACK and isinstance(data, Mapping)
    return there and type(event.get("step")) is int and "from_step" in data  # type: ignore[operator]


def _standing(events: Sequence[Event]) -> list[Event]:
    """The events that are part of the run: none past a resume's checkpoint."""
    found: list[Event] = []
    for event in events:
        if event.get("kind") == "resumed" and type(event.get("step")) is int:
            step = event["step"]
            first = 0
            for place, held in enumerate(found):
                if _is_rollback(held) and held["step"] <= step:
                    first = place + 1
            # What a control changes after a step is not yet in the step's checkpoint.
            found = found[:first] + [
                held
                for held in found[first:]
                if not _is_rollback(held) and _before(held, step)
            ]
        found.append(event)
    return found


def _before(event: Event, step: int) -> bool:
    at = event.get("step")
    if type(at) is not int:
        return True
    return at < step if event.get("kind") == "control" else at <= step


def _give_rows(
    run: RunDirectory, passes: list[Pass], backs: list[Event], rows: Sequence[Row]
) -> None:
    """The rows of every pass, from the last to the first; see `rows` in place."""
    whole = list(rows)
    for place in range(len(backs) - 1, -1, -1):
        target = backs[place]["step"]
        passes[place + 1].rows = [row for row in whole if row["step"] > target]
        kept = backs[place]["data"].get("kept")
        whole = [row for row in whole if row["step"] <= target]
        if kept:
            whole += read_json_lines(run.path / str(kept) / run.metrics.name)
    passes[0].rows = whole
