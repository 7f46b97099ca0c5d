"""What a health check is, and the table of checks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from lumina.plan.plan import Plan
from lumina.state.events import Severity


@dataclass(frozen=True)
class Alarm:
    """What a check has found in a row.

    Attributes:
        text: a sentence for a person, with the figures that led to it.
        evidence: the figures.
        severity: of the event.
        confidence: how sure the check is that something is wrong, from 0 to 1.
    """

    text: str
    evidence: Mapping[str, float] = field(default_factory=dict)
    severity: Severity = "warning"
    confidence: float = 1.0


class Check:
    """Looks at every row of a run and says when something is wrong.

    Everything that it remembers is in `memory`, as plain JSON values, so that a resumed
    run goes on in the middle of a window.

    Args:
        plan: of the run.

    Attributes:
        name: what events and the documentation call it.
        penalty: what it takes off the score of 100 while it holds.
        rule: when it is raised, for the documentation.
        prior: how sure it is where its evidence only just reaches the threshold.
        of_a_rank: it reads figures that differ between the processes of a run, such as
            seconds and bytes, so that no rule that changes the run may use it.
        reads_every: steps from one judgement of rows to the next: 1 where it looks at
            every row afresh, a window where it judges a window at a time. An alarm that
            was not raised between two of them says nothing.
        memory: what it remembers.
    """

    name: ClassVar[str]
    penalty: ClassVar[int]
    rule: ClassVar[str]
    prior: ClassVar[float] = 0.8
    of_a_rank: ClassVar[bool] = False
    reads_every: int = 1

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.memory: dict[str, Any] = {}

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Take in a row of metrics.jsonl, and say whether it is a reason for alarm."""
        raise NotImplementedError

    def see_evaluation(self, step: int, metrics: Mapping[str, Any]) -> Alarm | None:
        """Take in an evaluation after `step` steps; by default it says nothing."""
        return None

    def changed(self, name: str, value: Any) -> None:
        """Learn that a control has another value now, which the Plan does not say."""

    def sure(self, excess: float) -> float:
        """How sure the check is, by how far the evidence goes beyond the threshold.

        Args:
            excess: evidence divided by its threshold, 1 and more.

        Returns:
            `prior` at the threshold; the doubt is halved where the evidence is twice
            as large, and so on.
        """
        return 1 - (1 - self.prior) / max(excess, 1.0)

    def keep(self, name: str, value: Any, most: int) -> list[Any]:
        """Append to a list of `memory` that holds the last `most` values."""
        values: list[Any] = self.memory.setdefault(name, [])
        values.append(value)
        del values[:-most]
        return values


CHECKS: dict[str, type[Check]] = {}
"""Name -> check; filled by `register_check`."""

C = TypeVar("C", bound=type[Check])


def register_check(cls: C) -> C:
    """Enter a check in the table: a decorator of a subclass of `Check`."""
    CHECKS[cls.name] = cls
    return cls


def number(row: Mapping[str, Any], key: str) -> float | None:
    """A finite number of a row; None where there is none."""
    value = row.get(key)
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return None


def median(values: Sequence[float]) -> float:
    """The middle value of at least one."""
    ordered = sorted(values)
    half = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[half]
    return (ordered[half - 1] + ordered[half]) / 2


def mean(values: Sequence[float]) -> float:
    """Of at least one value."""
    return sum(values) / len(values)
