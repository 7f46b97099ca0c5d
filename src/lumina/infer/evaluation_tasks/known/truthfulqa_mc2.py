"""TruthfulQA with several right answers: their share of the probability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lumina.data.records import BadRecord
from lumina.infer.evaluation_tasks.choices import (
    MultipleChoice,
    Question,
    field_text,
    question_of,
)
from lumina.infer.evaluation_tasks.task import Metric, Value, register_task
from lumina.infer.evaluation_tasks.truthful import PROMPT, SOURCE, targets


@dataclass(frozen=True)
class Several(Question):
    """A question with several right choices.

    Attributes:
        true: for each choice 1 where it is right, else 0.
    """

    true: tuple[int, ...] = ()


@register_task
class TruthfulTwo(MultipleChoice):
    """The probabilities of all choices, made to add up to one."""

    name = "truthfulqa_mc2"
    words = "factuality: the share of the probability that true answers have"
    source = SOURCE
    record = "question and mc2_targets (choices and labels)"
    metrics = (Metric("acc", "probability of the true answers, of all answers"),)

    @property
    def takes_shots(self) -> bool:
        """The prompt has its own examples."""
        return False

    def read(self, record: Mapping[str, Any], file: str) -> tuple[str, Several]:
        """The question of a record; there are no groups."""
        prompt = PROMPT.format(question=field_text(record, "question"))
        choices, labels = targets(record, "mc2_targets")
        if sum(labels) == len(labels):
            raise BadRecord("E102", "mc2_targets has no false answer")
        checked = question_of(prompt, choices, labels.index(1))
        return "", Several(prompt, checked.choices, checked.gold, tuple(labels))

    def judged(self, question: Question, logs: Sequence[float]) -> Mapping[str, Value]:
        """The share of the probability, from logarithms that may be very small."""
        assert isinstance(question, Several)
        scores = np.array(logs)
        shares = np.exp(scores - scores.max())
        true = np.array(question.true) == 1
        return {"acc": float(shares[true].sum() / shares.sum())}
