"""Questions that a model answers in its own words, and words found in answers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from lumina.data.quality.words import words_of
from lumina.data.records import BadRecord
from lumina.infer.evaluation_tasks.subject import Subject
from lumina.infer.evaluation_tasks.task import (
    EvaluationTask,
    Example,
    Outcome,
    Shots,
    Value,
)
from lumina.optim.declared import Option

Phrase = tuple[str, ...]
"""Words in lower case, in their order."""


def tokens(default: int) -> Option:
    """The option for the most tokens of an answer."""
    return Option(default, least=1)


class FreeAnswers(EvaluationTask):
    """Prompts that the model continues, always with the likeliest token.

    Attributes:
        stop: texts before which an answer ends.
    """

    options: ClassVar[Mapping[str, Option]] = {"tokens": tokens(64)}
    stop: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def prompt(self, example: Example, shots: Shots) -> str:
        """What the model continues."""

    @abstractmethod
    def judged(self, content: Any, answer: str) -> Mapping[str, Value]:
        """The metrics of one answer."""

    def measure(
        self, examples: Sequence[Example], model: Subject, shots: Shots
    ) -> list[Outcome]:
        """Let the model answer every question."""
        prompts = [self.prompt(example, shots) for example in examples]
        answers = model.answers(
            prompts, max_new_tokens=self.settings["tokens"], stop=self.stop
        )
        return [
            Outcome(
                self.judged(example.content, answer.text),
                {"question": prompt, "answer": answer.text},
            )
            for example, prompt, answer in zip(examples, prompts, answers, strict=True)
        ]


def phrase_of(text: str) -> Phrase:
    """The words of a phrase.

    Raises:
        BadRecord: E102 for one without any.
    """
    found = tuple(words_of(text))
    if not found:
        raise BadRecord("E102", f"{text!r} has no word")
    return found


def contains(words: Sequence[str], phrase: Phrase) -> bool:
    """Whether the words of a phrase stand one behind the other among some words."""
    length = len(phrase)
    return any(
        tuple(words[at : at + length]) == phrase
        for at in range(len(words) - length + 1)
    )


def phrases_of(record: Mapping[str, Any], name: str) -> tuple[tuple[Phrase, ...], ...]:
    """A field with a list of phrases, each of which may be a list of alternatives.

    Raises:
        BadRecord: E102.
    """
    value = record.get(name)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise BadRecord("E102", f"the field {name!r} is {value!r}, not a list")
    found = []
    for one in value:
        ways = one if isinstance(one, list) else [one]
        if not ways or not all(isinstance(way, str) for way in ways):
            raise BadRecord("E102", f"the field {name!r} has {one!r}, not texts")
        found.append(tuple(phrase_of(way) for way in ways))
    return tuple(found)
