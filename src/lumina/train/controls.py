"""Changes to a running job: requested, applied at a step boundary, journalled."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass
from typing import Any

from lumina.errors import LuminaError

LIVE = ("learning_rate", "max_grad_norm", "weight_decay")
"""Controls that are read by the step: no reassembly."""

REASSEMBLE = ("micro_batch_size", "gradient_checkpointing")
"""Controls that change the Plan: capture, edit, assemble again."""


@dataclass
class Change:
    """One requested change and what became of it.

    Attributes:
        id: unique within the run.
        name: one of `LIVE` or `REASSEMBLE`.
        value: what was asked for.
        reason: why, in words.
        source: who asked: user, orchestrator, guard.
        step: completed steps when it was applied.
        old: the value before.
        outcome: "requested", "applied", "refused: ..." or "undone".
    """

    id: int
    name: str
    value: Any
    reason: str
    source: str
    step: int | None = None
    old: Any = None
    outcome: str = "requested"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


class Controls:
    """The one way back into a running loop.

    Requests may come from any thread; they take effect at the next step boundary that
    all ranks agree on.

    Args:
        journal: the changes of the run so far, as a State keeps them.
    """

    def __init__(self, journal: list[dict[str, Any]] | None = None) -> None:
        self.changes = [Change(**entry) for entry in journal or []]
        self._pending: list[Change] = []
        self._lock = threading.Lock()
        self._next = max((c.id for c in self.changes), default=0) + 1

    def request(
        self, name: str, value: Any, reason: str, source: str = "user"
    ) -> int:
        """Ask for a change.

        Raises:
            LuminaError: E004 for a control there is not, E005 for a value without
                sense.
        """
        _check(name, value)
        with self._lock:
            change = Change(self._next, name, value, reason, source)
            self._next += 1
            self._pending.append(change)
        return change.id

    def undo(self, change_id: int, reason: str = "undone on request") -> int:
        """Ask for the value from before a change."""
        for change in self.changes:
            if change.id == change_id and change.outcome == "applied":
                return self.request(change.name, change.old, reason, change.source)
        raise LuminaError(
            "E005",
            f"there is no applied change {change_id} to undo",
            "applied changes are in events.jsonl and in Controls.changes",
        )

    @property
    def waiting(self) -> bool:
        """Whether anything was requested and not yet taken."""
        return bool(self._pending)

    def take(self) -> list[dict[str, Any]]:
        """Hand the waiting requests to the loop."""
        with self._lock:
            taken, self._pending = self._pending, []
        return [change.to_dict() for change in taken]

    def record(self, change: Change) -> None:
        """Enter a finished change in the journal."""
        self.changes.append(change)
        self._next = max(self._next, change.id + 1)

    def journal(self) -> list[dict[str, Any]]:
        """The journal as plain JSON values, for the State."""
        return [change.to_dict() for change in self.changes]


def _check(name: str, value: Any) -> None:
    """Refuse what no run could do."""
    if name not in LIVE + REASSEMBLE:
        raise LuminaError(
            "E004",
            f"there is no control named {name}",
            f"controls are {', '.join(LIVE + REASSEMBLE)}",
        )
    if name == "gradient_checkpointing":
        good = value in ("none", "full", "selective")
    elif name == "micro_batch_size":
        good = isinstance(value, int) and value >= 1
    elif name == "learning_rate":
        good = isinstance(value, int | float) and 0 < value <= 1
    else:
        good = isinstance(value, int | float) and 0 <= value < float("inf")
    if not good:
        raise LuminaError(
            "E005", f"{value!r} makes no sense for {name}", "see `Controls.request`"
        )
