"""Multiple choice by likelihood, as lm-evaluation-harness judges it.

The model never writes an answer: the choice whose text it finds likeliest after the
question is the one that it chooses (Gao et al., 2024, doi:10.5281/zenodo.12608602;
`process_results` of `multiple_choice` tasks in `lm_eval/api/task.py`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lumina.data.records import BadRecord
from lumina.infer.evaluation_tasks.subject import Subject
from lumina.infer.evaluation_tasks.task import (
    EvaluationTask,
    Example,
    Metric,
    Outcome,
    Shots,
    Value,
)
from lumina.optim.declared import Option

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

ACCURACY = Metric("acc", "share of questions whose likeliest choice is right")
ACCURACY_NORM = Metric(
    "acc_norm", "the same, where log-likelihoods are divided by characters"
)
ACCURACY_BYTES = Metric(
    "acc_bytes", "the same, where log-likelihoods are divided by bytes of UTF-8"
)


@dataclass(frozen=True)
class Question:
    """A question with its choices.

    Attributes:
        prompt: what stands before a choice.
        choices: the texts that are scored.
        gold: the number of the right one, from 0.
    """

    prompt: str
    choices: tuple[str, ...]
    gold: int


def question_of(prompt: str, choices: Sequence[Any], gold: Any) -> Question:
    """A checked question.

    Args:
        prompt: what stands before a choice.
        choices: two texts or more, none of them empty.
        gold: the number of the right one, from 0, as a number or a text that spells it.

    Raises:
        BadRecord: E102.
    """
    if len(choices) < 2:
        raise BadRecord("E102", f"there are {len(choices)} choices, not two or more")
    for choice in choices:
        if not isinstance(choice, str) or not choice.strip():
            raise BadRecord("E102", f"a choice is {choice!r}, not a text")
    try:
        number = int(gold)
    except (TypeError, ValueError):
        raise BadRecord("E102", f"the answer is {gold!r}, not a number") from None
    if isinstance(gold, bool | float) or not 0 <= number < len(choices):
        raise BadRecord(
            "E102", f"the answer is {gold!r}, and there are {len(choices)} choices"
        )
    return Question(prompt, tuple(choices), number)


def field_text(record: Mapping[str, Any], name: str) -> str:
    """A field that is a text with something in it.

    Raises:
        BadRecord: E102.
    """
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        said = "is missing" if value is None else f"is {value!r}, not a text"
        raise BadRecord("E102", f"the field {name!r} {said}")
    return value


def field_list(record: Mapping[str, Any], name: str) -> list[Any]:
    """A field that is a list.

    Raises:
        BadRecord: E102.
    """
    value = record.get(name)
    if not isinstance(value, list):
        said = "is missing" if value is None else f"is {value!r}, not a list"
        raise BadRecord("E102", f"the field {name!r} {said}")
    return value


def lettered(choices: Sequence[str]) -> str:
    """Choices on lines of their own, each behind its letter."""
    return "\n".join(
        f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)
    )


class MultipleChoice(EvaluationTask):
    """Questions of which the likeliest choice is taken.

    Attributes:
        delimiter: stands between a prompt and a choice.
        between: stands between solved examples, and before the question.
    """

    metrics: ClassVar[tuple[Metric, ...]] = (
        ACCURACY,
        ACCURACY_NORM,
        ACCURACY_BYTES,
    )
    options: ClassVar[Mapping[str, Option]] = {}
    delimiter: ClassVar[str] = " "
    between: ClassVar[str] = "\n\n"

    @abstractmethod
    def read(self, record: Mapping[str, Any], file: str) -> tuple[str, Question]:
        """(group, question) of a record; see `EvaluationTask.read`."""

    @property
    def takes_shots(self) -> bool:
        """Whether solved examples can be shown before a question."""
        return True

    def introduction(self, group: str) -> str:
        """What stands before all examples of a group."""
        return ""

    def context(self, example: Example, shots: Shots) -> str:
        """What the model reads before a choice of an example."""
        solved = [
            f"{one.content.prompt}{self.delimiter}{one.content.choices[one.content.gold]}"
            for one in shots.of(example.group)
        ]
        return self.introduction(example.group) + self.between.join(
            [*solved, example.content.prompt]
        )

    def measure(
        self, examples: Sequence[Example], model: Subject, shots: Shots
    ) -> list[Outcome]:
        """Score every choice of every question."""
        pairs = []
        for example in examples:
            context = self.context(example, shots)
            pairs += [
                (context, self.delimiter + choice) for choice in example.content.choices
            ]
        found = iter(model.likelihoods(pairs))
        outcomes = []
        for example in examples:
            question: Question = example.content
            logs = [next(found).log_probability for _ in question.choices]
            details = {
                "question": question.prompt,
                "choices": list(question.choices),
                "log_likelihoods": logs,
                "chosen": int(np.argmax(logs)),
                "right": question.gold,
            }
            outcomes.append(Outcome(self.judged(question, logs), details))
        return outcomes

    def judged(self, question: Question, logs: Sequence[float]) -> Mapping[str, Value]:
        """The metrics of one question.

        Args:
            question: with its right choice.
            logs: log-likelihood of each choice, in nats.
        """
        return accuracies(question, logs)


def accuracies(question: Question, logs: Sequence[float]) -> dict[str, float]:
    """acc, acc_norm and acc_bytes of one question; of equals the first one counts."""
    scores = np.array(logs)
    characters = np.array([float(len(choice)) for choice in question.choices])
    sizes = np.array([float(len(choice.encode())) for choice in question.choices])
    return {
        "acc": float(np.argmax(scores) == question.gold),
        "acc_norm": float(np.argmax(scores / characters) == question.gold),
        "acc_bytes": float(np.argmax(scores / sizes) == question.gold),
    }
