"""One requested change, as the journal keeps it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Change:
    """One requested change and what became of it.

    Attributes:
        id: unique within the run.
        name: the control.
        value: the requested value.
        reason: why, in words.
        source: "user", "orchestrator" for a rule, "text_monitor" for samples that
            violate a limit, or "memory_ladder" for a step that ran out of memory.
        step: completed steps when it was applied.
        old: the value before.
        outcome: "requested", "applied", "refused: ..." or "undone".
        undoes: the id of the change that this one takes back.
        old_scale: the factor on the schedule before a change of the learning rate. An
            undo goes back to that factor, since the schedule has moved on.
        seconds: how long capturing, editing and assembling took, where they were
            needed.
    """

    id: int
    name: str
    value: Any
    reason: str
    source: str
    step: int | None = None
    old: Any = None
    outcome: str = "requested"
    undoes: int | None = None
    old_scale: float | None = None
    seconds: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)
