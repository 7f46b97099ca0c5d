"""What a tracker is to a run: a session with a service that shows its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LISTED = 16
"""The longest list of numbers that is sent, one by one; metrics.jsonl has them all."""


@dataclass(frozen=True)
class Session:
    """What a tracker is opened with.

    Attributes:
        folder: the run directory.
        project: what the service groups runs by.
        name: what the service calls the run.
        settings: every option of the run, as plain values.
        step: the run goes on after this step; 0 where it begins.
        identity: the service's own name of the run, where it was begun before.
        options: options of the trackers, as in the configuration.
    """

    folder: Path
    project: str
    name: str
    settings: Mapping[str, Any]
    step: int = 0
    identity: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


class Tracker:
    """A session with a service. Every method may be slow, and may raise.

    All of them are called in one thread, which is not the thread that trains. The
    constructor opens the session.

    Args:
        session: the run.

    Attributes:
        identity: the service's own name of the run, from which a resumed run goes on;
            None where it goes on by itself.
    """

    identity: str | None = None

    def __init__(self, session: Session) -> None:
        self.session = session

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """Show the numbers of a step."""
        raise NotImplementedError

    def event(self, event: Mapping[str, Any]) -> None:
        """Show what happened: an entry of events.jsonl."""
        raise NotImplementedError

    def close(self, status: str) -> None:
        """End the session.

        Args:
            status: "finished", "interrupted" or "failed".
        """


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row of metrics.jsonl by name.

    A list of up to `LISTED` numbers is NAME/0, NAME/1 and so on. What is unknown, and
    what is no number, is left out.
    """
    found: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, bool) or name == "step":
            continue
        if isinstance(value, int | float):
            found[name] = value
        elif isinstance(value, list) and len(value) <= LISTED:
            for place, one in enumerate(value):
                if isinstance(one, int | float):
                    found[f"{name}/{place}"] = one
    return found
