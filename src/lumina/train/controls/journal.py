"""The way back into a running job: requests, and the journal of what became of them."""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Any

from lumina.errors import LuminaError
from lumina.train.controls.change import Change
from lumina.train.controls.table import control_named


class Controls:
    """The only way to change a running job.

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

    def request(self, name: str, value: Any, reason: str, source: str = "user") -> int:
        """Ask for a change.

        Raises:
            LuminaError: E004 for an unknown control, E005 for a value that makes no
                sense.
        """
        control_named(name).check_value(value)
        return self._ask(name, value, reason, source)

    def undo(
        self, change_id: int, reason: str = "undone on request", source: str = "user"
    ) -> int:
        """Ask for the value from before a change.

        Raises:
            LuminaError: E005 when no applied change has that id.
        """
        change = self.applied(change_id)
        if change is None:
            raise LuminaError(
                "E005",
                f"there is no applied change {change_id} to undo",
                "applied changes are in events.jsonl and in Controls.changes",
            )
        final = control_named(change.name).final
        if final:
            raise LuminaError(
                "E005",
                f"{change.name} cannot be undone: {final}",
                "go back to a checkpoint from before it",
            )
        return self._ask(change.name, change.old, reason, source, undoes=change_id)

    def applied(self, change_id: int | None) -> Change | None:
        """The change with that id, if it holds."""
        for change in self.changes:
            if change.id == change_id and change.outcome == "applied":
                return change
        return None

    def standing(self) -> dict[str, Change]:
        """The newest change of every control that holds, by the control's name."""
        return {c.name: c for c in self.changes if c.outcome == "applied"}

    def set_aside(self, chosen: Collection[str]) -> None:
        """Changes no longer hold whose settings were given another value since."""
        for change in self.standing().values():
            if set(control_named(change.name).settings) & set(chosen):
                change.outcome = "set aside by other settings"

    def rewind(self, journal: list[dict[str, Any]], step: int) -> list[Change]:
        """Changes hold as they did at an earlier step; none leaves the journal.

        Args:
            journal: as it was then.
            step: that step.

        Returns:
            The changes that were made since and held, the newest first.
        """
        taken_back: list[Change] = []
        then = {entry["id"]: entry["outcome"] for entry in journal}
        for change in self.changes:
            if change.id in then:
                change.outcome = then[change.id]
            elif change.outcome == "applied" and change.name != "rollback":
                change.outcome = f"taken back with the run, to step {step}"
                taken_back.insert(0, change)
        return taken_back

    def _ask(
        self,
        name: str,
        value: Any,
        reason: str,
        source: str,
        undoes: int | None = None,
    ) -> int:
        with self._lock:
            change = Change(self._next, name, value, reason, source, undoes=undoes)
            self._next += 1
            self._pending.append(change)
        return change.id

    def next_id(self) -> int:
        """An id for a change that is not a request, such as a rule's."""
        with self._lock:
            self._next += 1
            return self._next - 1

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
        undone = self.applied(change.undoes)
        if undone is not None and change.outcome == "applied":
            undone.outcome = "undone"
        self.changes.append(change)
        self._next = max(self._next, change.id + 1)

    def journal(self) -> list[dict[str, Any]]:
        """The journal as plain JSON values, for the State."""
        return [change.to_dict() for change in self.changes]
