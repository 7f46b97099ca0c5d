"""Factuality: questions without any text to look at, answered in a few words."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lumina.data.records import BadRecord
from lumina.infer.evaluation_tasks.choices import field_text
from lumina.infer.evaluation_tasks.free_answers import FreeAnswers, tokens
from lumina.infer.evaluation_tasks.task import (
    Example,
    Metric,
    Shots,
    Value,
    register_task,
)
from lumina.optim.declared import Option

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_MARKS = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Asked:
    """A question and its right answers, any of which is enough."""

    question: str
    answers: tuple[str, ...]


@register_task
class Factuality(FreeAnswers):
    """Closed-book questions, judged as SQuAD judges answers."""

    name = "factuality"
    words = "facts from memory: short answers that are word for word right"
    source = (
        "TriviaQA, arXiv:1705.03551; Natural Questions, doi:10.1162/tacl_a_00276 "
        "(nq_open); exact match and F1 of SQuAD, arXiv:1606.05250"
    )
    record = (
        "question, and answer: a text, a list of texts, or an object with aliases, as "
        "TriviaQA has it"
    )
    metrics = (
        Metric("exact_match", "share of answers that are one of the right ones"),
        Metric("f1", "overlap of words with the nearest right answer"),
    )
    options: ClassVar[Mapping[str, Option]] = {"tokens": tokens(32)}
    stop: ClassVar[tuple[str, ...]] = ("\n",)

    @property
    def takes_shots(self) -> bool:
        """Solved questions show how long an answer is."""
        return True

    def read(self, record: Mapping[str, Any], file: str) -> tuple[str, Asked]:
        """The question of a record; there are no groups."""
        given = record.get("answer", record.get("answers"))
        if isinstance(given, dict):
            given = given.get("aliases") or [given.get("value")]
        answers = [given] if isinstance(given, str) else given
        if (
            not isinstance(answers, list)
            or not answers
            or not all(isinstance(one, str) and one.strip() for one in answers)
        ):
            raise BadRecord("E102", f"the answer is {given!r}, not a text or a list")
        return "", Asked(field_text(record, "question"), tuple(answers))

    def prompt(self, example: Example, shots: Shots) -> str:
        """The solved questions, then this one."""
        solved = [
            f"Question: {one.content.question}\nAnswer: {one.content.answers[0]}"
            for one in shots.of(example.group)
        ]
        asked = f"Question: {example.content.question}\nAnswer:"
        return "\n\n".join([*solved, asked])

    def judged(self, content: Asked, answer: str) -> Mapping[str, Value]:
        """Against the nearest of the right answers."""
        said = normalised(answer)
        wanted = [normalised(one) for one in content.answers]
        return {
            "exact_match": float(said in wanted),
            "f1": max(overlap(said.split(), one.split()) for one in wanted),
        }


def normalised(text: str) -> str:
    """Lower case, without punctuation, articles and further spaces, as in SQuAD."""
    text = text.lower().translate(_MARKS)
    return " ".join(_ARTICLES.sub(" ", text).split())


def overlap(said: Sequence[str], wanted: Sequence[str]) -> float:
    """The F1 of words, counted as often as they stand."""
    if not said or not wanted:
        return float(list(said) == list(wanted))
    same = sum((Counter(said) & Counter(wanted)).values())
    if not same:
        return 0.0
    precision, recall = same / len(said), same / len(wanted)
    return 2 * precision * recall / (precision + recall)
