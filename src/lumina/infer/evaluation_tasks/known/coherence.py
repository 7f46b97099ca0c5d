"""Coherence: is a text likelier than the same sentences in another order?"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from lumina.data.records import BadRecord
from lumina.infer.evaluation_tasks.choices import field_text
from lumina.infer.evaluation_tasks.subject import Subject
from lumina.infer.evaluation_tasks.task import (
    EvaluationTask,
    Example,
    Metric,
    Outcome,
    Shots,
    register_task,
)
from lumina.optim.declared import Option

_END = re.compile(r"(?<=[.!?])\s+")


@register_task
class Coherence(EvaluationTask):
    """The order of sentences is told from random ones by likelihood."""

    name = "coherence"
    words = "whether texts are likelier than the same sentences in a random order"
    source = "sentence order, Barzilay and Lapata, 2008, doi:10.1162/coli.2008.34.1.1"
    record = "text: two different sentences or more"
    metrics = (Metric("coherence", "share of random orders less likely than the text"),)
    options: ClassVar[Mapping[str, Option]] = {
        "orders": Option(4, least=1),
        "sentences": Option(8, least=2),
        "seed": Option(0, least=0),
    }

    def read(self, record: Mapping[str, Any], file: str) -> tuple[str, list[str]]:
        """The first sentences of a text; there are no groups."""
        text = field_text(record, "text").strip()
        sentences = _END.split(text)[: self.settings["sentences"]]
        if len(set(sentences)) < 2:
            raise BadRecord("E102", "the text has no two different sentences")
        return "", sentences

    def measure(
        self, examples: Sequence[Example], model: Subject, shots: Shots
    ) -> list[Outcome]:
        """Score every text and its random orders, which are the same for any model."""
        orders = [self.orders(example) for example in examples]
        found = iter(
            model.likelihoods(
                [("", " ".join(order)) for some in orders for order in some]
            )
        )
        outcomes = []
        for some in orders:
            own, *others = [next(found).log_probability for _ in some]
            won = [1.0 if own > other else 0.5 * (own == other) for other in others]
            details = {
                "choices": [" ".join(order) for order in some],
                "log_likelihoods": [own, *others],
            }
            outcomes.append(Outcome({"coherence": sum(won) / len(won)}, details))
        return outcomes

    def orders(self, example: Example) -> list[list[str]]:
        """The order of the text, and random ones that differ from it."""
        own: list[str] = example.content
        text = "\0".join(own).encode("utf-8", "surrogatepass")
        draw = random.Random(zlib.crc32(text) + self.settings["seed"])
        found = [own]
        while len(found) <= self.settings["orders"]:
            other = draw.sample(own, len(own))
            if other != own:
                found.append(other)
        return found
