"""Seed tasks of self-instruct: an instruction with examples of input and output."""

from __future__ import annotations

from typing import Any

from lumina.data.record_forms.alpaca import task_of
from lumina.data.record_forms.form import Form, Record
from lumina.data.record_forms.message import (
    BadRecord,
    Content,
    Message,
    filled,
    kind_of,
    string_of,
)


class SelfInstruct(Form):
    """A task; each of its instances is a question and an answer of one conversation.

    The instruction stands before the first input only.
    """

    name = "self_instruct"
    about = '{"instruction", "instances": [{"input", "output"}, ...]}'
    rank = 42
    marks = ("instances",)
    fields = ("instruction", "instances")
    turn_fields = ("input", "output")

    def recognises(self, record: Record) -> bool:
        """It has an instruction and instances."""
        return "instruction" in record and "instances" in record

    def parts(self, record: Record) -> dict[str, Content]:
        """The conversation."""
        instances = record.get("instances")
        if not isinstance(instances, list):
            raise BadRecord("E102", f"'instances' is {kind_of(instances)}, not a list")
        if not instances:
            raise BadRecord("E105", "'instances' is empty")
        instruction: Any = string_of(record.get("instruction"), "'instruction'")
        turns: list[Message] = []
        for number, one in enumerate(instances, 1):
            if not isinstance(one, dict):
                raise BadRecord("E102", f"instance {number} is {kind_of(one)}")
            asked = task_of(instruction, one.get("input"))
            said = filled(one.get("output"), f"'output' of instance {number}")
            turns.append({"role": "user", "content": asked})
            turns.append({"role": "assistant", "content": said})
            instruction = None
        return {"": tuple(turns)}


FORM = SelfInstruct()
