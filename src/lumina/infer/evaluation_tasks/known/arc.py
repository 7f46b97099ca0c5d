"""ARC: questions of science at school, easy or of the challenge set."""

from __future__ import annotations

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


@register_task
class Arc(MultipleChoice):
    """The text of each choice is scored."""

    name = "arc"
    words = "science at school: the likeliest of three to five answers"
    source = "Clark et al., 2018, arXiv:1803.05457; allenai/ai2_arc"
    record = (
        "question, choices (text and label, two lists) and answerKey, as "
        "allenai/ai2_arc; or question with stem and choices, as the authors' files"
    )

    def read(self, record: Mapping[str, Any], file: str) -> tuple[str, Question]:
        """The question of a record of either form; there are no groups."""
        asked, texts, labels = record.get("question"), list[Any](), list[Any]()
        if isinstance(asked, dict):  # the authors' own form
            text, choices = field_text(asked, "stem"), asked.get("choices")
            if not isinstance(choices, list) or not all(
                isinstance(one, dict) for one in choices
            ):
                raise BadRecord("E102", "the field 'choices' is no list of objects")
            texts = [one.get("text") for one in choices]
            labels = [one.get("label") for one in choices]
        else:
            text, both = field_text(record, "question"), record.get("choices")
            if not isinstance(both, dict):
                raise BadRecord("E102", "the field 'choices' has no text and label")
            texts, labels = field_list(both, "text"), field_list(both, "label")
        key = record.get("answerKey")
        if key not in labels or len(labels) != len(texts):
            raise BadRecord("E102", f"the answerKey {key!r} is none of {labels}")
        prompt = f"Question: {text}\nAnswer:"
        return "", question_of(prompt, texts, labels.index(key))
