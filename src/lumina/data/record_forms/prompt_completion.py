"""{"prompt", "completion"}: a question and its answer, as texts or as messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lumina.data.record_forms.form import Form, Record
from lumina.data.record_forms.message import BadRecord, Content, Message, filled
from lumina.data.record_forms.turns import (
    CALLS,
    LOSS,
    NAMES,
    TOOLS,
    read_turns,
    refuse_lost,
    to_learn_from,
    turn_keys,
    unread_in_turns,
    with_record_loss,
    with_system,
    with_tools,
)


class PromptCompletion(Form):
    """A prompt, which bears no loss, and what the assistant says to it.

    Other names, such as "question" and "answer", are told with `--field`.
    """

    name = "prompt"
    about = '{"prompt", "completion"}'
    rank = 41
    marks = ("prompt",)
    fields = ("prompt", "completion", "system", *TOOLS, *LOSS)
    turn_fields = ("role", "content", *LOSS, *CALLS, *NAMES)

    def recognises(self, record: Record) -> bool:
        """It has both."""
        return "prompt" in record and "completion" in record

    def parts(self, record: Record) -> dict[str, Content]:
        """The conversation."""
        refuse_lost(record, "the record")
        return {"": with_record_loss(prompt_and("completion", record), record)}

    def unread(self, record: Record) -> list[str]:
        """Fields of the record and of turns."""
        return super().unread(record) + [
            name
            for field in ("prompt", "completion")
            if isinstance(record[field], list)
            for name in unread_in_turns(
                record[field], field, turn_keys(record[field], ("role", "content"))
            )
        ]


def prompt_and(answer: str, record: Record) -> tuple[Message, ...]:
    """The conversation of a prompt and one of its answers.

    Args:
        answer: the field of the answer.
        record: has "prompt" and the answer.
    """
    asked = turns_of(record.get("prompt"), "prompt", "user")
    said = turns_of(record.get(answer), answer, "assistant")
    if len(said) > len(asked) and said[: len(asked)] == asked:
        said = said[len(asked) :]  # the answer is the whole conversation
    before = untaught(asked)
    if any(message["role"] == "system" for message in said):
        raise BadRecord("E102", f"'{answer}' has a turn of the system")
    turns = to_learn_from((*before, *said))
    return with_tools(with_system(turns, record.get("system")), record)


def untaught(turns: Iterable[Message]) -> list[Message]:
    """The turns, of which the assistant's bear no loss unless they say so."""
    made: list[Message] = []
    for turn in turns:
        if turn["role"] == "assistant" and "train" not in turn:
            turn = {**turn, "train": False}
            turn.pop("weight", None)
        made.append(turn)
    return made


def turns_of(value: Any, field: str, role: str) -> tuple[Message, ...]:
    """A text as one turn, or turns as they are."""
    if isinstance(value, list):
        return read_turns(value, field, *turn_keys(value, ("role", "content")))
    if isinstance(value, dict):
        return read_turns([value], field, *turn_keys([value], ("role", "content")))
    return ({"role": role, "content": filled(value, f"'{field}'")},)


FORM = PromptCompletion()
