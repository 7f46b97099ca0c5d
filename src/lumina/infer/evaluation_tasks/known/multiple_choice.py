"""Multiple choice of one's own: any question with choices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina.data.records import BadRecord
from lumina.infer.evaluation_tasks.choices import (
    LETTERS,
    MultipleChoice,
    Question,
    field_list,
    field_text,
    question_of,
)
from lumina.infer.evaluation_tasks.task import register_task


@register_task
class OwnChoices(MultipleChoice):
    """The text of each choice is scored right behind the question as it stands."""

    name = "multiple_choice"
    words = "questions of your own: the likeliest of any number of choices"
    source = "lm-evaluation-harness, doi:10.5281/zenodo.12608602"
    record = (
        "question (a text), choices (a list of texts), answer (a number from 0, a "
        "letter, or the text of the choice) and, if you like, group"
    )

    def read(self, record: Mapping[str, Any], file: str) -> tuple[str, Question]:
        """The group and the question of a record."""
        text, choices = field_text(record, "question"), field_list(record, "choices")
        gold = record.get("answer")
        if isinstance(gold, str):
            if gold in choices:
                gold = choices.index(gold)
            elif len(gold) == 1 and gold in LETTERS:
                gold = LETTERS.index(gold)
            elif not gold.strip().isdigit():
                raise BadRecord("E102", f"the answer {gold!r} is none of the choices")
        group = record.get("group") or ""
        if not isinstance(group, str):
            raise BadRecord("E102", f"the group is {group!r}, not a text")
        return group, question_of(text, choices, gold)
