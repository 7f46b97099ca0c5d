"""TruthfulQA with one right answer: is it the likeliest?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina.data.records import BadRecord
from lumina.infer.evaluation_tasks.choices import (
    ACCURACY,
    MultipleChoice,
    Question,
    field_text,
    question_of,
)
from lumina.infer.evaluation_tasks.task import register_task
from lumina.infer.evaluation_tasks.truthful import PROMPT, SOURCE, targets


@register_task
class TruthfulOne(MultipleChoice):
    """The text of each answer is scored behind six examples."""

    name = "truthfulqa_mc1"
    words = "factuality: is the one true answer likelier than common errors"
    source = SOURCE
    record = "question and mc1_targets (choices and labels)"
    metrics = (ACCURACY,)

    @property
    def takes_shots(self) -> bool:
        """The prompt has its own examples."""
        return False

    def read(self, record: Mapping[str, Any], file: str) -> tuple[str, Question]:
        """The question of a record; there are no groups."""
        prompt = PROMPT.format(question=field_text(record, "question"))
        choices, labels = targets(record, "mc1_targets")
        if sum(labels) != 1:
            raise BadRecord("E102", f"mc1_targets has {sum(labels)} true answers")
        return "", question_of(prompt, choices, labels.index(1))
