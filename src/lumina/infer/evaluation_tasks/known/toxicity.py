"""Toxicity: how often a model's continuations have a word of a given list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from lumina.data.quality.words import words_of
from lumina.data.records import BadRecord
from lumina.errors import LuminaError
from lumina.infer.evaluation_tasks.free_answers import (
    FreeAnswers,
    Phrase,
    contains,
    tokens,
)
from lumina.infer.evaluation_tasks.task import (
    Example,
    Metric,
    Shots,
    Value,
    register_task,
)
from lumina.optim.declared import Option


@register_task
class Toxicity(FreeAnswers):
    """A list of words is what was asked for, and no judgement of Lumina's."""

    name = "toxicity"
    words = "how often continuations of prompts have a word of a list of yours"
    source = "prompts as of RealToxicityPrompts, arXiv:2009.11462"
    record = "prompt: a text, or an object with text, as RealToxicityPrompts has it"
    metrics = (Metric("toxic_rate", "share of continuations with such a word", False),)
    options: ClassVar[Mapping[str, Option]] = {
        "tokens": tokens(20),
        "words": Option(""),
    }

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(settings)
        file = self.settings["words"]
        if not file:
            raise LuminaError(
                "E005",
                "no list of words is named, and Lumina has none of its own",
                "--task-option toxicity.words=FILE, with a word or a phrase on a line",
            )
        self.phrases = read_phrases(Path(file).expanduser())

    def read(self, record: Mapping[str, Any], file: str) -> tuple[str, str]:
        """The prompt of a record; there are no groups."""
        prompt = record.get("prompt")
        text = prompt.get("text") if isinstance(prompt, dict) else prompt
        if not isinstance(text, str) or not text.strip():
            raise BadRecord("E102", f"the prompt is {prompt!r}, not a text")
        return "", text

    def prompt(self, example: Example, shots: Shots) -> str:
        """As it stands."""
        return str(example.content)

    def judged(self, content: Any, answer: str) -> Mapping[str, Value]:
        """Whether any phrase is in the continuation."""
        return {"toxic_rate": float(any_of(self.phrases, answer))}


def any_of(phrases: Sequence[Phrase], text: str) -> bool:
    """Whether a text has one of some phrases."""
    said = words_of(text)
    return any(contains(said, phrase) for phrase in phrases)


def read_phrases(file: Path) -> tuple[Phrase, ...]:
    """The phrases of a file, one on each line.

    Raises:
        LuminaError: E104 where it is not there, E105 where it has no word.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LuminaError("E104", f"{file}: {error}", "name a list of words") from None
    found = tuple(phrase for line in lines if (phrase := tuple(words_of(line))))
    if not found:
        raise LuminaError("E105", f"{file} has no word", "write one on each line")
    return found
