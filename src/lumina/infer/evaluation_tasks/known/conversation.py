"""Conversations turn by turn: what a model answers where the assistant spoke.

Each turn is answered after the turns that the file has before it, not after answers of
the model's own, so that a figure of a late turn does not carry faults of early ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lumina.data.quality.words import words_of
from lumina.data.records import BadRecord
from lumina.infer.chat import check_markers
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

ROLES = ("system", "user", "assistant")

APART = 3
"""So many first turns have figures of their own; all later ones have one together."""

PHRASE = 3
"""Words of a phrase whose repetition is counted."""

MEASURES = (
    Metric("reply_loss", "nats a token of the file's reply, after its turns", False),
    Metric("reply_f1", "words that the answer and the file's reply have in common, F1"),
    Metric("relevance", "share of the user's longer words that the answer takes up"),
    Metric("repetition", "share of the answer's phrases of 3 words said before", False),
    Metric("ended", "share of answers that end by themselves, with something said"),
)
"""What is measured of each turn; the names of the turns are added to them."""


def names_of_turns() -> tuple[str, ...]:
    """The endings of the names of figures: of all turns, and of each."""
    return ("", *(f"@{turn}" for turn in range(1, APART + 1)), f"@{APART + 1}+")


@dataclass(frozen=True)
class Spoken:
    """A conversation.

    Attributes:
        turns: role and content of each.
        replies: the places of the assistant's turns.
    """

    turns: tuple[Mapping[str, str], ...]
    replies: tuple[int, ...]


@register_task
class Conversation(EvaluationTask):
    """No figure says whether an answer is good; each says one thing about it."""

    name = "conversation"
    words = "conversations: figures of the answer at each of the assistant's turns"
    source = (
        "F1 of words as in SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250); repeated "
        "phrases as in Welleck et al. 2020 (arXiv:1908.04319)"
    )
    record = "messages: a list of role (system, user, assistant) and content"
    metrics = tuple(
        Metric(
            one.name + turn,
            one.words if not turn else f"the same, of turn {turn[1:]}",
            one.higher_is_better,
        )
        for turn in names_of_turns()
        for one in MEASURES
    )
    options: ClassVar[Mapping[str, Option]] = {"tokens": Option(128, least=1)}

    def read(self, record: Mapping[str, Any], file: str) -> tuple[str, Spoken]:
        """A conversation in which the assistant answers a user."""
        messages = record.get("messages")
        if not isinstance(messages, list) or not messages:
            raise BadRecord("E102", "the field 'messages' is no list of turns")
        for number, turn in enumerate(messages, 1):
            if not isinstance(turn, dict) or turn.get("role") not in ROLES:
                raise BadRecord("E102", f"turn {number} has no role of {ROLES}")
            if not isinstance(turn.get("content"), str) or not turn["content"].strip():
                raise BadRecord("E102", f"turn {number} has no text")
        replies = tuple(
            place
            for place, turn in enumerate(messages)
            if turn["role"] == "assistant"
            and place
            and messages[place - 1]["role"] == "user"
        )
        if not replies:
            raise BadRecord("E102", "the assistant answers no user")
        turns = tuple(
            {"role": turn["role"], "content": turn["content"]} for turn in messages
        )
        return str(record.get("group") or ""), Spoken(turns, replies)

    def measure(
        self, examples: Sequence[Example], model: Subject, shots: Shots
    ) -> list[Outcome]:
        """Score and answer every turn of the assistant's.

        Raises:
            LuminaError: E102 for a model that was not trained on conversations.
        """
        check_markers(model.tokenizer)
        places = [
            (number, place)
            for number, example in enumerate(examples)
            for place in example.content.replies
        ]
        before = [examples[n].content.turns[:place] for n, place in places]
        replies = [examples[n].content.turns[place]["content"] for n, place in places]
        scored = model.likelihoods(list(zip(before, replies, strict=True)))
        answers = model.answers(before, max_new_tokens=self.settings["tokens"])
        turns: list[list[dict[str, Any]]] = [[] for _ in examples]
        for (number, _), history, reply, likely, answer in zip(
            places, before, replies, scored, answers, strict=True
        ):
            figures = {
                "reply_loss": -likely.log_probability / likely.tokens,
                **figures_of_answer(answer.text, reply, history),
                "ended": float(answer.reason == "stop" and bool(answer.text.strip())),
            }
            turns[number].append(
                {"question": history[-1]["content"], "answer": answer.text,
                 "reply": reply, "figures": figures}
            )  # fmt: skip
        return [Outcome(means_of(one), {"turns": one}) for one in turns]


def figures_of_answer(
    answer: str, reply: str, history: Sequence[Mapping[str, str]]
) -> dict[str, float]:
    """What is measured of the words of an answer.

    Args:
        answer: the model's.
        reply: the file's.
        history: the turns before it, the last of them a user's.

    Returns:
        reply_f1, relevance and repetition. A figure that does not apply is left out:
        relevance where the user has no word of four letters or more, repetition where
        the answer has no phrase.
    """
    said, wanted = words_of(answer), words_of(reply)
    common = sum((Counter(said) & Counter(wanted)).values())
    found = {"reply_f1": 2 * common / max(len(said) + len(wanted), 1)}
    asked = {word for word in words_of(history[-1]["content"]) if len(word) > 3}
    if asked:
        found["relevance"] = len(asked & set(said)) / len(asked)
    known = {
        phrase
        for turn in history
        if turn["role"] == "assistant"
        for phrase in _phrases(words_of(turn["content"]))
    }
    phrases, repeated = _phrases(said), 0
    for phrase in phrases:
        repeated += phrase in known
        known.add(phrase)
    if phrases:
        found["repetition"] = repeated / len(phrases)
    return found


def _phrases(words: Sequence[str]) -> list[tuple[str, ...]]:
    count = len(words) - PHRASE + 1
    return [tuple(words[at : at + PHRASE]) for at in range(max(count, 0))]


def means_of(turns: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The figures of a conversation: over all its turns, and of each by its number."""
    gathered: dict[str, list[float]] = {}
    for number, turn in enumerate(turns, 1):
        ending = f"@{number}" if number <= APART else f"@{APART + 1}+"
        for name, value in turn["figures"].items():
            gathered.setdefault(name, []).append(value)
            gathered.setdefault(name + ending, []).append(value)
    return {name: sum(each) / len(each) for name, each in gathered.items()}
