"""Two answers of which people preferred one: {"prompt", "chosen", "rejected"}."""

from __future__ import annotations

from typing import Any

from lumina.data.record_forms.alpaca import task_of
from lumina.data.record_forms.form import Record, UntrainedForm
from lumina.data.record_forms.message import BadRecord, Content, Message
from lumina.data.record_forms.prompt_completion import turns_of, untaught
from lumina.data.record_forms.turns import read_turns, turn_keys

ANSWERS = ("chosen", "rejected")


class Preference(UntrainedForm):
    """A question with a chosen and a rejected answer.

    The question is "prompt", the turns in "messages" or "conversations", or Alpaca's
    "instruction" and "input"; it may be missing where the answers are whole
    conversations.
    """

    name = "preference"
    about = '{"prompt", "chosen", "rejected"}'
    rank = 11
    marks = ("chosen",)
    fields = (
        "prompt", "messages", "conversations", "instruction", "input", "system",
        *ANSWERS,
    )  # fmt: skip
    reason = "no objective learns from pairs of answers yet"
    advice = "leave such records out with --data-errors skip"

    def recognises(self, record: Record) -> bool:
        """It has both answers."""
        return all(name in record for name in ANSWERS)

    def advice_for(self, record: Record) -> str:
        """How the chosen answers of such records are learned from alone."""
        if "prompt" in record:
            how = "--format prompt --field chosen=completion"
        elif isinstance(record["chosen"], list):
            how = "--format messages --field chosen=messages"
        else:
            how = "--format text --field chosen=text"
        return f"to learn the chosen answers alone, use {how}; or {self.advice}"

    def parts(self, record: Record) -> dict[str, Content]:
        """The conversation with each of the answers."""
        asked = _question(record)
        found: dict[str, Content] = {}
        for name in ANSWERS:
            said = turns_of(record.get(name), name, "assistant")
            if not any(message["role"] == "assistant" for message in said):
                raise BadRecord("E102", f"'{name}' has no turn of the assistant")
            same = said[: len(asked)] == asked
            found[name] = said if same else (*untaught(asked), *said)
        if found["chosen"] == found["rejected"]:
            raise BadRecord("E102", "'chosen' and 'rejected' are the same")
        return found


def _question(record: Record) -> tuple[Message, ...]:
    value: Any
    for field, keys in (
        ("messages", ("role", "content")),
        ("conversations", ("from", "value")),
    ):
        if (value := record.get(field)) is not None:
            return read_turns(value, field, *turn_keys(value, keys))
    if record.get("prompt") is not None:
        return turns_of(record["prompt"], "prompt", "user")
    if record.get("instruction") is not None:
        asked = task_of(record["instruction"], record.get("input"))
        return ({"role": "user", "content": asked},)
    return ()


FORM = Preference()
