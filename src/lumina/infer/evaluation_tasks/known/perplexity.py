"""Perplexity of texts, each by itself, so that two models can be compared by text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lumina.infer.evaluation_tasks.choices import field_text
from lumina.infer.evaluation_tasks.subject import Subject
from lumina.infer.evaluation_tasks.task import (
    EvaluationTask,
    Example,
    Metric,
    Outcome,
    Shots,
    Values,
    register_task,
)


def perplexity(values: Values) -> float:
    """exp of the mean loss; `values` is [texts, 2]: nats and tokens."""
    return math.exp(min(float(values[:, 0].sum() / values[:, 1].sum()), 700.0))


def bits_per_byte(values: Values) -> float:
    """Bits over bytes; `values` is [texts, 2]: nats and bytes."""
    return float(values[:, 0].sum() / values[:, 1].sum() / math.log(2))


@register_task
class Perplexity(EvaluationTask):
    """Every token of a text is predicted once, in windows of the model's length."""

    name = "perplexity"
    words = "how well each text of a file is predicted"
    source = "Jelinek et al., 1977; bits per byte as arXiv:2101.00027"
    record = "text"
    metrics = (
        Metric("perplexity", "exp of the mean loss of a token", False, perplexity),
        Metric(
            "bits_per_byte",
            "bits for each byte of UTF-8; compares models of any tokenizers",
            False,
            bits_per_byte,
        ),
    )

    def read(self, record: Mapping[str, Any], file: str) -> tuple[str, str]:
        """The text of a record; there are no groups."""
        return str(record.get("group") or ""), field_text(record, "text")

    def measure(
        self, examples: Sequence[Example], model: Subject, shots: Shots
    ) -> list[Outcome]:
        """The loss of every text."""
        texts = [example.content for example in examples]
        outcomes = []
        for text, (nats, tokens) in zip(texts, model.text_losses(texts), strict=True):
            size = len(text.encode())
            values = {"perplexity": (nats, tokens), "bits_per_byte": (nats, size)}
            details = {"nats": nats, "tokens": tokens, "bytes": size}
            outcomes.append(Outcome(values, {"question": text, **details}))
        return outcomes
