"""Alpaca's {"instruction", "input", "output"}, with "system" and "history" beside."""

from __future__ import annotations

from typing import Any

from lumina.data.record_forms.form import Form, Record
from lumina.data.record_forms.message import (
    BadRecord,
    Content,
    Message,
    filled,
    kind_of,
    string_of,
)
from lumina.data.record_forms.turns import with_system


class Alpaca(Form):
    """A task and its answer.

    The user's turn is the instruction, and the input on a line of its own below it. An
    earlier conversation may stand in "history" as [question, answer] pairs.
    """

    name = "alpaca"
    about = '{"instruction", "input", "output"}'
    rank = 40
    marks = ("instruction",)
    fields = ("instruction", "input", "output", "system", "history")

    def recognises(self, record: Record) -> bool:
        """It has an instruction and an output."""
        return "instruction" in record and "output" in record

    def parts(self, record: Record) -> dict[str, Content]:
        """The conversation."""
        asked = task_of(record.get("instruction"), record.get("input"))
        answer = filled(record.get("output"), "'output'")
        turns: tuple[Message, ...] = (
            *_history(record.get("history")),
            {"role": "user", "content": asked},
            {"role": "assistant", "content": answer},
        )
        return {"": with_system(turns, record.get("system"))}


def task_of(instruction: Any, given: Any) -> str:
    """The words of the user: the instruction, and below it the input, if any.

    Raises:
        BadRecord: E102 not strings, E105 both empty.
    """
    texts = [
        string_of(value, where)
        for value, where in ((instruction, "'instruction'"), (given, "'input'"))
        if value is not None
    ]
    found = "\n".join(text for text in texts if text.strip())
    if not found:
        raise BadRecord("E105", "'instruction' is empty")
    return found


def _history(value: Any) -> list[Message]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadRecord("E102", f"'history' is {kind_of(value)}, not a list")
    turns: list[Message] = []
    for number, pair in enumerate(value, 1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRecord("E102", f"entry {number} of 'history' is no pair")
        for role, text in zip(("user", "assistant"), pair, strict=True):
            words = filled(text, f"a turn of entry {number} of 'history'")
            turns.append({"role": role, "content": words})
    return turns


FORM = Alpaca()
