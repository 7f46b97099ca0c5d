"""The decisions of a run, made again from its rows, its evaluations and its plan."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from lumina.errors import LuminaError
from lumina.state.decisions_made import Made, decisions_made
from lumina.state.events import read_events
from lumina.state.run_directory import RunDirectory
from lumina.train.controls import Change
from lumina.train.replaying.history import History, Pass, Row, history_of
from lumina.train.replaying.stand_in import StandIn
from lumina.train.rules import RunningRules

CLOSE = 1e-9
"""Relative difference of two numbers that counts as none: another machine may round the
last digit of a logarithm differently."""


@dataclass(frozen=True)
class Replayed:
    """Both accounts of the decisions of a run.

    Attributes:
        recorded: those of events.jsonl that are part of the run.
        again: those that were made again.
        differences: where the two differ, in sentences.
        beyond: recorded decisions about steps that no row reports, as a killed run
            may leave them; they cannot be made again.
    """

    recorded: list[Made]
    again: list[Made]
    differences: list[str]
    beyond: list[Made]


def replay(run: RunDirectory) -> Replayed:
    """Make the decisions of a run again, and compare them with its record.

    Nothing is read but metrics.jsonl with the evaluations in it, the plans, what was
    undone, and which changes of persons and of the machine the run was given.

    Raises:
        LuminaError: E104 for a missing file, E101 for a broken one, E002 for a run
            without an orchestrator.
    """
    history = history_of(run)
    if not history.plans[-1][1].orchestrator:
        raise LuminaError(
            "E002",
            f"{run.path} was trained with adaptive off: nothing was decided",
            "`lumina explain RUN` says what would have been decided",
        )
    standing = [one for one in decisions_made(read_events(run.path)) if not one.undone]
    recorded = [one for one in standing if one.step <= history.last or _undone_rows(
        history, one)]  # fmt: skip
    beyond = [one for one in standing if one not in recorded]
    again = decided_again(history)
    return Replayed(recorded, again, _differences(recorded, again), beyond)


def _undone_rows(history: History, made: Made) -> bool:
    """Whether a pass that was taken back has the row of a decision."""
    return any(
        one.rows and one.rows[-1]["step"] >= made.step for one in history.passes[:-1]
    )


def decided_again(history: History) -> list[Made]:
    """The decisions that follow from what happened."""
    return _Replay(history).decisions()


class _Replay:
    def __init__(self, history: History) -> None:
        self.history = history
        self.plans = list(history.plans)
        self.rules = RunningRules.of(self.plans[0][1])
        self.stand_in = StandIn(self.plans[0][1])
        self.events: list[dict[str, Any]] = []
        self.made: dict[int, Change] = {}
        self.states: dict[int, tuple[dict[str, Any], Mapping[str, Any]]] = {}
        self.step = 0
        self.next_id = 1

    def decisions(self) -> list[Made]:
        for one in self.history.passes:
            for row in one.rows:
                self._take(row, one)
            if one.back_to is not None:
                self._go_back(one.back_to, one.factor)
        self._tell()
        return decisions_made(self.events)

    def _take(self, row: Row, one: Pass) -> None:
        """A row, its evaluation, and what was changed after it."""
        self._enter(int(row["step"]) - 1)
        step = self.step = int(row["step"])
        own = self.rules.metrics()
        shown = {k: v for k, v in row.items() if k not in own and not _evaluated(k)}

        def now(name: str) -> Any:
            return self.stand_in.now(name, step)

        self.rules.see(shown, now)
        self._tell()
        if found := {k: v for k, v in row.items() if _measured(k)}:
            self.rules.see_evaluation(step, found, now)
            self._tell()
        if step in self.history.targets:
            state = json.loads(json.dumps(self.rules.state()))
            self.states[step] = state, self.stand_in.snapshot()
        self._change(step, one)

    def _enter(self, begun: int) -> None:
        """The plan that holds for the next step, where another begins to hold."""
        until = self.plans[0][0]
        if until is None or begun < until:
            return
        self._tell()
        self.plans.pop(0)
        plan, held = self.plans[0][1], self.rules.state()
        self.rules = RunningRules.of(plan)
        if begun in self.history.phases:
            self.stand_in = StandIn(plan)
        else:
            self.rules.load(json.loads(json.dumps(held)))
            self.stand_in.plan = plan

    def _change(self, step: int, one: Pass) -> None:
        """What was changed between this step and the next."""
        told = list(one.changes.get(step, ()))
        while told and not told[0]["data"].get("rule"):
            self._apply(self._recorded(told.pop(0)), None)
        for ruling in self.rules.due(step):
            proposal = ruling.proposal
            same = next(
                (
                    event
                    for event in told
                    if event["data"].get("rule") == ruling.rule
                    and event["data"].get("name") == proposal.control
                ),
                None,
            )
            change = Change(
                self.next_id,
                proposal.control,
                proposal.value,
                proposal.reason,
                "orchestrator",
                undoes=proposal.undoes,
                outcome=f"refused: {ruling.refusal}" if ruling.refusal else "applied",
            )
            if same is not None:
                told.remove(same)
                record = self._recorded(same)
                change.id, change.outcome = record.id, record.outcome
                change.old = record.old
            self._apply(change, ruling.rule)
        for event in told:
            if not event["data"].get("rule"):
                self._apply(self._recorded(event), None)

    def _recorded(self, event: Mapping[str, Any]) -> Change:
        """A change as its event tells it."""
        known = {one.name for one in fields(Change)}
        values = {k: v for k, v in event["data"].items() if k in known}
        return Change(**values | {"step": event["step"]})

    def _apply(self, change: Change, rule: str | None) -> None:
        change.step = self.step
        self.next_id = max(self.next_id, change.id) + 1
        before = self.stand_in.now(change.name, self.step)
        change.old = change.old if before is None else before
        if change.outcome in ("applied", "undone"):
            change.outcome = "applied"
            undone = self.made.get(change.undoes or -1)
            self.stand_in.apply(change, self.step, undone)
        self.made[change.id] = change
        self.rules.changed(change, rule)

    def _go_back(self, step: int, factor: float) -> None:
        """Take everything back to an earlier step, as the run did."""
        self._tell()
        state, then = self.states.get(step, ({}, None))
        if then is not None:
            self.stand_in.restore(then, factor)
        self.rules.rolled_back(step, self.step, state)
        self.step = step
        # The checkpoint of that step is written anew.
        self.states[step] = self.rules.state(), self.stand_in.snapshot()

    def _tell(self) -> None:
        """Note the decisions and outcomes since the last call, as events."""
        for kind, note in self.rules.notes():
            data = json.loads(json.dumps(dict(note.evidence), default=str))
            self.events.append({"kind": kind, "step": note.step, "data": data})


def _measured(key: str) -> bool:
    """Whether a figure of a row is one that rules see of an evaluation."""
    return _evaluated(key) and not key.endswith(".eval_change")


def _evaluated(key: str) -> bool:
    return key.startswith("eval_") or ".eval_" in key


def _differences(recorded: list[Made], again: list[Made]) -> list[str]:
    found = []
    for place in range(max(len(recorded), len(again))):
        if place >= len(again):
            one = recorded[place]
            found.append(
                f"decision {one.number} of step {one.step:,} ({one.action} against "
                f"{one.anomaly}) is in the record and is not made again"
            )
        elif place >= len(recorded):
            one = again[place]
            found.append(
                f"{one.action} against {one.anomaly} is decided in step {one.step:,}, "
                "and is not in the record"
            )
        else:
            found += _between(recorded[place], again[place])
    return found


def _between(recorded: Made, again: Made) -> list[str]:
    """Where two accounts of one decision differ; an outcome may be still to come."""
    return [
        f"decision {recorded.number} of step {recorded.step:,}: {one.name} is "
        f"{getattr(recorded, one.name)!r} in the record and "
        f"{getattr(again, one.name)!r} when it is made again"
        for one in fields(Made)
        if not _same(getattr(recorded, one.name), getattr(again, one.name))
    ]


def _same(one: Any, two: Any) -> bool:
    numbers = all(
        isinstance(x, int | float) and not isinstance(x, bool) for x in (one, two)
    )
    if numbers:
        return math.isclose(one, two, rel_tol=CLOSE, abs_tol=1e-12)
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        return one.keys() == two.keys() and all(_same(one[k], two[k]) for k in one)
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        pairs = zip(one, two, strict=False)
        return len(one) == len(two) and all(_same(x, y) for x, y in pairs)
    return bool(one == two)
