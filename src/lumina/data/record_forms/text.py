"""{"text": ...}: a text."""

from __future__ import annotations

from typing import Any

from lumina.data.record_forms.form import Form, Record
from lumina.data.record_forms.message import BadRecord, Content, string_of


class Text(Form):
    """A text, or several that stand in a list and become one."""

    name = "text"
    about = '{"text": ...}'
    rank = 60  # Alpaca's own file has the filled prompt in "text" beside its parts
    marks = ("text",)
    fields = ("text",)

    def recognises(self, record: Record) -> bool:
        """It has a text."""
        return "text" in record

    def parts(self, record: Record) -> dict[str, Content]:
        """The text."""
        text = _joined(record.get("text"))
        if not text.strip():
            raise BadRecord("E105", "'text' is empty")
        return {"": text}


def _joined(value: Any) -> str:
    if isinstance(value, list):
        return "\n\n".join(string_of(one, "a text of 'text'") for one in value)
    return string_of(value, "'text'")


FORM = Text()
