"""The task `conversation`: figures of an answer at each of the assistant's turns."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from infer.networks import tiny
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.infer.evaluation_tasks.known.conversation import (
    Conversation,
    figures_of_answer,
    means_of,
)
from lumina.infer.evaluation_tasks.records import read_questions
from lumina.infer.evaluation_tasks.results import TaskResult, result_of
from lumina.infer.evaluation_tasks.subject import Subject
from lumina.infer.evaluation_tasks.task import Shots


def turns(*said: str) -> list[dict[str, str]]:
    return [
        {"role": ("user", "assistant")[n % 2], "content": one}
        for n, one in enumerate(said)
    ]


TALKS = [
    turns("Where is the cat?", "In the barn.", "And the owl now?", "On the hill."),
    turns("Hello there", "Good day."),
]


def written(folder: Path, talks: list[Any]) -> Path:
    path = folder / "talks.jsonl"
    path.write_text("".join(json.dumps({"messages": one}) + "\n" for one in talks))
    return path


def judged(path: Path, model: Any, **settings: Any) -> TaskResult:
    task = Conversation({"tokens": 8} | settings)
    examples = read_questions(task, [str(path)]).examples
    return result_of(task, examples, task.measure(examples, model, Shots()))


@pytest.fixture(scope="module")
def subject() -> Subject:
    texts = [one["content"] for talk in TALKS for one in talk]
    tokenizer = Tokenizer.train(texts * 9, 290).with_chat()
    network = tiny(tokenizer.vocab_size, seed=3, seq_length=256).eval()
    return Subject(network, tokenizer)


@pytest.mark.covers("EVL-09")
def test_each_turn_is_answered_after_the_turns_of_the_file(
    tmp_path: Path, subject: Subject
) -> None:
    result = judged(written(tmp_path, TALKS), subject)
    figures = {name: one.value for name, one in result.figures.items()}
    # The loss of a turn, from the logits of one long row.
    losses = []
    for talk in TALKS:
        for place in range(1, len(talk), 2):
            before = subject.tokenizer.chat_prompt(talk[:place])
            [after] = subject.tokenizer.encode_contents([talk[place]["content"]])
            ids = torch.tensor([before + after])
            with torch.no_grad():
                logs = subject.network.logits(ids)[0].double().log_softmax(-1)
            scores = [float(logs[len(before) - 1 + n, x]) for n, x in enumerate(after)]
            losses.append(-math.fsum(scores) / len(scores))
    first, second, other = losses
    assert figures["reply_loss@1"] == pytest.approx((first + other) / 2, rel=1e-4)
    assert figures["reply_loss@2"] == pytest.approx(second, rel=1e-4)
    whole = ((first + second) / 2 + other) / 2
    assert figures["reply_loss"] == pytest.approx(whole, rel=1e-4)
    assert result.figures["reply_loss@2"].examples == 1
    kept = result.examples[0]["turns"][1]
    assert (kept["question"], kept["reply"]) == ("And the owl now?", "On the hill.")
    alone = subject.answers([TALKS[0][:3]], max_new_tokens=8)
    assert kept["answer"] == alone[0].text
    assert subject.answers(["x"], max_new_tokens=8) != alone


def test_what_is_measured_of_an_answer() -> None:
    history = turns("Where is the big cat?", "the cat is in the barn", "But where now?")
    found = figures_of_answer("Where? The cat is out", "the cat is asleep", history)
    assert found["reply_f1"] == pytest.approx(2 * 3 / (5 + 4))
    assert found["relevance"] == 1.0, "where; but and now are short"
    assert found["repetition"] == pytest.approx(1 / 3), "the cat is"
    again = figures_of_answer("no no no no", "yes", turns("Why?"))
    assert again == {"reply_f1": 0.0, "repetition": 0.5}
    assert figures_of_answer("", "yes", turns("Why so?")) == {"reply_f1": 0.0}


def test_late_turns_are_taken_together() -> None:
    each = [{"figures": {"ended": float(n)}} for n in range(5)]
    assert means_of(each) == {
        "ended": 2.0, "ended@1": 0.0, "ended@2": 1.0, "ended@3": 2.0, "ended@4+": 3.5,
    }  # fmt: skip


def test_an_answer_that_says_nothing_or_is_cut_off_has_not_ended(
    tmp_path: Path, subject: Subject
) -> None:
    texts = [("yes", "stop"), ("yes", "length"), (" ", "stop")]
    stand_in = SimpleNamespace(
        tokenizer=subject.tokenizer,
        likelihoods=subject.likelihoods,
        answers=lambda *_, **__: [
            SimpleNamespace(text=text, reason=reason) for text, reason in texts
        ],
    )
    result = judged(written(tmp_path, TALKS), stand_in)
    ended = [
        [turn["figures"]["ended"] for turn in one["turns"]] for one in result.examples
    ]
    assert ended == [[1.0, 0.0], [0.0]]


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ("x", "no list of turns"),
        ([], "no list of turns"),
        ([{"role": "judge", "content": "x"}], "turn 1 has no role"),
        (turns("a", " "), "turn 2 has no text"),
        (turns("a"), "answers no user"),
        ([{"role": "assistant", "content": "x"}], "answers no user"),
    ],
)
def test_a_record_that_is_no_conversation_is_refused(
    tmp_path: Path, messages: Any, said: str
) -> None:
    with pytest.raises(LuminaError, match=said) as caught:
        read_questions(Conversation(), [str(written(tmp_path, [messages]))])
    assert caught.value.code == "E102"


def test_a_model_without_markers_of_turns_is_refused(
    tmp_path: Path,
) -> None:
    plain = SimpleNamespace(tokenizer=SimpleNamespace(has_chat=False))
    with pytest.raises(LuminaError, match="knows no turns"):
        judged(written(tmp_path, TALKS), plain)
