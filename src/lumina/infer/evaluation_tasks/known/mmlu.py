"""MMLU: questions of school and profession in 57 subjects, with four choices each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lumina.data.records import BadRecord
from lumina.infer.evaluation_tasks.choices import (
    ACCURACY,
    LETTERS,
    MultipleChoice,
    Question,
    field_list,
    field_text,
    lettered,
    question_of,
)
from lumina.infer.evaluation_tasks.task import register_task

COLUMNS = ("question", "A", "B", "C", "D", "answer")
_FILE = re.compile(r"(.+?)_(dev|val|test)\.csv")


def _subject(file: str) -> str:
    """The subject that a file is named like; "" where it is named otherwise."""
    named = _FILE.fullmatch(file)
    return named[1] if named else ""


@register_task
class Mmlu(MultipleChoice):
    """The letter of the right choice is predicted, as in the paper."""

    name = "mmlu"
    words = "knowledge in 57 subjects: the letter of the right one of four choices"
    source = "Hendrycks et al., 2021, arXiv:2009.03300; cais/mmlu"
    record = (
        "question, choices (a list), answer (a number from 0) and subject, as "
        "cais/mmlu; or a line of a table named like its subject: question, choice0 to "
        "choice3, answer, or without a row of names question, A, B, C, D, letter"
    )
    metrics = (ACCURACY,)

    def columns(self, first_row: Sequence[str]) -> tuple[str, ...] | None:
        """Of the authors' own files, which have no row of names."""
        own = len(first_row) == len(COLUMNS) and first_row[-1].strip() in "ABCD"
        return COLUMNS if own else None

    def read(self, record: Mapping[str, Any], file: str) -> tuple[str, Question]:
        """The subject and the question of a record of either form."""
        text, gold = field_text(record, "question"), record.get("answer")
        if "choices" in record:
            choices = field_list(record, "choices")
            group = str(record.get("subject") or "")
        elif "choice0" in record:
            choices = [field_text(record, f"choice{n}") for n in range(4)]
            group = _subject(file)
        else:
            choices = [field_text(record, letter) for letter in "ABCD"]
            if not isinstance(gold, str) or gold.strip() not in tuple("ABCD"):
                raise BadRecord("E102", f"the answer is {gold!r}, not A, B, C or D")
            gold = "ABCD".index(gold.strip())
            group = _subject(file)
        checked = question_of(text, choices, gold)
        prompt = f"{text.strip()}\n{lettered(checked.choices)}\nAnswer:"
        letters = tuple(LETTERS[: len(checked.choices)])
        return group, Question(prompt, letters, checked.gold)

    def introduction(self, group: str) -> str:
        """As the paper has it."""
        about = f" about {group.replace('_', ' ')}" if group else ""
        return f"The following are multiple choice questions (with answers){about}.\n\n"
