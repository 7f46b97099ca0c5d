"""HellaSwag: which of four endings goes on with a description."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lumina.data.records import BadRecord
from lumina.infer.evaluation_tasks.choices import (
    MultipleChoice,
    Question,
    field_list,
    field_text,
    question_of,
)
from lumina.infer.evaluation_tasks.task import register_task


def cleaned(text: str) -> str:
    """Without the marks of the WikiHow part, as lm-evaluation-harness removes them."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


@register_task
class HellaSwag(MultipleChoice):
    """The text of each ending is scored."""

    name = "hellaswag"
    words = "common sense: the likeliest of four endings of a description"
    source = "Zellers et al., 2019, arXiv:1905.07830; Rowan/hellaswag"
    record = "activity_label, ctx_a, ctx_b, endings (a list) and label (from 0)"

    def read(self, record: Mapping[str, Any], file: str) -> tuple[str, Question]:
        """The question of a record; there are no groups."""
        first, activity = field_text(record, "ctx_a"), record.get("activity_label")
        second = record.get("ctx_b")
        if not isinstance(second, str) or not isinstance(activity, str):
            raise BadRecord("E102", "the field 'ctx_b' or 'activity_label' is no text")
        endings = [
            cleaned(one) if isinstance(one, str) else one
            for one in field_list(record, "endings")
        ]
        if record.get("label") == "":
            raise BadRecord(
                "E102",
                "the label is empty, as in the test set, whose answers are not public",
                "use the validation set",
            )
        prompt = cleaned(f"{activity}: {first} {second.capitalize()}")
        return "", question_of(prompt, endings, record.get("label"))
