"""OpenAI's {"messages": [{"role", "content"}, ...]}: a conversation."""

from __future__ import annotations

from lumina.data.record_forms.form import Form, Record
from lumina.data.record_forms.message import Content
from lumina.data.record_forms.turns import (
    CALLS,
    LOSS,
    NAMES,
    TOOLS,
    conversation,
    refuse_lost,
    turn_keys,
    turns_in,
    unread_in_turns,
    with_record_loss,
    with_system,
    with_tools,
)


class Messages(Form):
    """A list of turns, with a system text or definitions of tools beside it.

    Attributes:
        turns: the field that holds the list.
        keys: the usual fields of a turn, speaker first.
    """

    name = "messages"
    about = '{"messages": [{"role", "content"}, ...]}'
    rank = 20
    turns = "messages"
    keys = ("role", "content")
    turn_fields = ("role", "content", "from", "value", *LOSS, *CALLS, *NAMES)

    @property
    def marks(self) -> tuple[str, ...]:  # type: ignore[override]
        """The turns."""
        return (self.turns,)

    @property
    def fields(self) -> tuple[str, ...]:  # type: ignore[override]
        """The turns and what may stand beside them."""
        return (self.turns, "system", *TOOLS, *LOSS)

    def recognises(self, record: Record) -> bool:
        """It has the list."""
        return self.turns in record

    def parts(self, record: Record) -> dict[str, Content]:
        """The conversation."""
        refuse_lost(record, "the record")
        value = turns_in(record.get(self.turns), self.turns)
        turns = conversation(value, self.turns, *turn_keys(value, self.keys))
        turns = with_record_loss(turns, record)
        return {"": with_tools(with_system(turns, record.get("system")), record)}

    def unread(self, record: Record) -> list[str]:
        """Fields of the record, and of its turns as "messages[].name"."""
        turns = turns_in(record[self.turns], self.turns)
        keys = turn_keys(turns, self.keys)
        return super().unread(record) + unread_in_turns(turns, self.turns, keys)


FORM = Messages()
