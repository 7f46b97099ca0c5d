"""What is asked of a rollback, as the control, rules and the journal write it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from lumina.train.controls.control import is_number


@dataclass(frozen=True)
class Request:
    """A rollback that is asked for.

    Attributes:
        steps: how far back it may go.
        skip_data: the rows that were trained on since then are passed over; otherwise
            they are trained on again.
        learning_rate_factor: what the learning rate is multiplied by from there on.
        rewarm_steps: in this many steps the learning rate warms up again; 0: at once.
        best: go to the best model within the steps, by evaluations where there are
            some; otherwise to the newest that is known to be good.
        earliest: go to the earliest step within the steps, whatever followed it.
        marked: go to the snapshot that the control `snapshot` took last, or nowhere.
    """

    steps: int
    skip_data: bool = True
    learning_rate_factor: float = 1.0
    rewarm_steps: int = 0
    best: bool = False
    earliest: bool = False
    marked: bool = False

    @staticmethod
    def of(value: Mapping[str, Any]) -> Request:
        """The request that a control's value describes."""
        return Request(**value)


_NAMES = frozenset(one.name for one in fields(Request))


def is_request(value: Any) -> bool:
    """Whether a value describes a rollback."""
    if not isinstance(value, Mapping) or not {"steps"} <= set(value) <= _NAMES:
        return False
    asked = Request.of(value)
    return (
        type(asked.steps) is int
        and asked.steps > 0
        and type(asked.rewarm_steps) is int
        and asked.rewarm_steps >= 0
        and isinstance(asked.skip_data, bool)
        and isinstance(asked.best, bool)
        and isinstance(asked.earliest, bool)
        and isinstance(asked.marked, bool)
        and is_number(asked.learning_rate_factor)
        and 0 < asked.learning_rate_factor <= 1
    )
