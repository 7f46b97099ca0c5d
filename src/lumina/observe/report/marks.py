"""What is marked on the curves: joints, evaluations, checkpoints, changes, warnings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lumina import quantities as q
from lumina.observe.report.decisions import in_words
from lumina.observe.report.record import Event, Record, data_of
from lumina.state.decisions_made import decisions_made

MOST_OF_A_KIND = 200
LONGEST_TEXT = 160

KINDS = {
    "joint": "resumed, or a new phase",
    "change": "a setting changed",
    "decision": "a decision, and what came of it",
    "warning": "a warning or an error",
    "checkpoint": "checkpoint",
    "evaluation": "evaluation",
}
"""Kinds of marks, and what the legend says of them."""


@dataclass(frozen=True)
class Mark:
    """Something that happened at a step.

    Attributes:
        kind: one of `KINDS`.
        step: where it is drawn.
        text: shown where the pointer is near.
    """

    kind: str
    step: float
    text: str


def marks(record: Record) -> list[dict[str, Any]]:
    """The marks as JSON, by step; of each kind as many as can be told apart."""
    found = sorted(_all(record), key=lambda mark: mark.step)
    kept = []
    for kind in KINDS:
        some = [mark for mark in found if mark.kind == kind]
        stride = -(-len(some) // MOST_OF_A_KIND) or 1
        kept += some[::stride]
    kept.sort(key=lambda mark: mark.step)
    return [asdict(mark) | {"text": mark.text[:LONGEST_TEXT]} for mark in kept]


def _all(record: Record) -> Iterator[Mark]:
    yield from _joints(record.starts)
    for event in record.events:
        yield from _of_event(event)
    for made in decisions_made(record.events):
        if not made.undone:
            yield Mark("decision", float(made.step), in_words(made))
    column = record.metrics.column("eval_loss")
    for step, loss in zip(column.steps, column.values, strict=True):
        yield Mark("evaluation", float(step), f"held-out loss {q.decimal(float(loss))}")


def _joints(starts: Iterable[Event]) -> Iterator[Mark]:
    for number, start in enumerate(starts):
        step, phase = q.known(start.get("step")), data_of(start).get("phase")
        if step is None or (number == 0 and not phase):
            continue
        resumed = "resumed" if number else "begun"
        yield Mark("joint", step, f"phase {phase} begins" if phase else resumed)


def _of_event(event: Mapping[str, Any]) -> Iterator[Mark]:
    step = q.known(event.get("step"))
    kind, message = event.get("kind"), str(event.get("message", ""))
    if step is None or kind == "run_started":
        return
    if kind == "checkpoint_saved":
        yield Mark("checkpoint", step, message)
    elif kind == "control":
        yield Mark("change", step, message)
    elif event.get("severity") in ("warning", "error", "critical"):
        code = str(event.get("code") or "")
        yield Mark("warning", step, f"{code} {message}".strip())
