"""The order of the roles in conversations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lumina.data.quality.check import Check, Item, Options, Result
from lumina.data.skipping import Skipped

_AFTER = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}
"""Role → the roles that can follow it."""


class Roles(Check):
    """System first, then user and assistant in turns; tools answer the assistant."""

    name = "roles"
    title = "order of roles in conversations"
    rank = 5
    statistic = True
    answers = ("roles_consistent",)

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.roles: Counter[str] = Counter()

    def see(self, item: Item) -> None:
        """Note a conversation in which a turn follows the wrong one."""
        messages = item.document.messages
        if messages is None:
            return
        self.seen += 1
        roles = [message["role"] for message in messages]
        self.roles.update(roles)
        if (what := wrong_turn(roles)) is not None:
            self.note(item, what)

    def see_bad(self, record: Skipped) -> None:
        """Note a record with a role that is not known."""
        if " has the unknown role " in record.reason:
            self.seen += 1
            self.note_at(record.source, record.line, record.reason)

    def result(self) -> Result:
        """The verdict, with the number of turns of each role."""
        if not self.seen:
            return self.not_assessed("there are no conversations")
        message = (
            f"in {self.count:,} of {self.seen:,} conversations a role follows one that "
            "it should not"
            if self.count
            else f"roles take turns in all {self.seen:,} conversations"
        )
        numbers = {f"turns of {role}": float(n) for role, n in self.roles.items()}
        return self.made("failed" if self.count else "passed", message, numbers=numbers)


def wrong_turn(roles: Sequence[str]) -> str | None:
    """The first role that follows one which it should not, in words."""
    before = ""
    for place, role in enumerate(roles, start=1):
        if role not in _AFTER.get(before, ()):
            after = f"follows {before}" if before else "is the first"
            return f"turn {place}: {role} {after}"
        before = role
    return None


CHECK = Roles
