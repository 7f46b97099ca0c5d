"""Prompts of any length through one batch: each gives what it gives alone."""

from __future__ import annotations

import pytest

from infer.networks import tiny
from lumina.errors import LuminaError
from lumina.infer.asking import chat
from lumina.infer.decoding.seat_step import SeatStep
from lumina.infer.generate import Decoding
from lumina.infer.sampling import Sampling
from lumina.infer.serving.many import completions_of, takes_many
from lumina.infer.text import Answers


@pytest.fixture(scope="module")
def network(tokenizer):
    network = tiny(tokenizer.vocab_size, num_layers=1, num_kv_heads=2, seq_length=48)
    network.tokenizer = tokenizer
    return network.eval()


@pytest.fixture(scope="module")
def prompts(tokenizer):
    texts = ["the", "quick brown fox and the lazy dog ", "a dog", "fox", "brown"]
    return [tokenizer.prompt(text) for text in texts]


SAMPLING = Sampling(temperature=1.0, top_k=0, seed=4)


@pytest.mark.covers("INF-02: batch generation")
def test_answers_come_in_order_with_the_reasons_of_each_alone(
    network, tokenizer, prompts
):
    longest = max(map(len, prompts))
    most = 48 - longest + 3  # more than the longest prompt leaves room for
    options = {"max_new_tokens": most, "stop": ["q"]}
    found = list(completions_of(network, tokenizer, prompts, SAMPLING, 2, **options))
    for prompt, done in zip(prompts, found, strict=True):
        alone = Answers(network, tokenizer, [prompt], SAMPLING, **options)
        list(alone)
        assert [done] == alone.completions
    assert found[1].reason in ("context", "stop")
    endless = {"max_new_tokens": most}
    full = list(completions_of(network, tokenizer, prompts, SAMPLING, 2, **endless))
    assert "context" in {done.reason for done in full} | {found[1].reason}


def test_what_has_begun_is_given_where_it_is_stopped(network, tokenizer, prompts):
    rounds = []
    made = completions_of(
        network, tokenizer, prompts, Sampling(temperature=0), 2,
        max_new_tokens=40, stopped=lambda: len(rounds) == 3 or rounds.append(0),
    )  # fmt: skip
    found = list(made)
    assert len(found) == 2  # two sat side by side
    for prompt, done in zip(prompts, found, strict=False):
        alone = Decoding(network, [prompt], Sampling(temperature=0), max_new_tokens=40)
        list(alone)
        assert not done.reason and done.ids
        assert done.ids == alone.new_ids[0][: len(done.ids)]


def test_prompts_that_are_refused_take_the_other_way(network, prompts):
    how = type("How", (), {"speculate": 0})()
    assert takes_many(network, prompts, how)
    assert not takes_many(network, [*prompts, [1] * 48], how)
    assert not takes_many(network, [*prompts, [network.spec.vocab_size]], how)


def test_conversations_side_by_side_are_answered_as_each_alone(network, monkeypatch):
    talks = [[{"role": "user", "content": text}] for text in ("the", "a fox?", "dog")]
    talks[1] = [{"role": "system", "content": "be brief"}, *talks[1]]
    options = {"max_new_tokens": 6, "seed": 3, "temperature": 1.0}
    alone = [chat(network, talk, **options) for talk in talks]
    steps, inner = [], SeatStep.run
    monkeypatch.setattr(
        SeatStep, "run", lambda self, turns: (steps.append(0), inner(self, turns))
    )
    assert chat(network, talks, **options) == alone
    assert not steps  # they fit side by side
    assert chat(network, talks, batch_size=2, **options) == alone
    assert steps
    with pytest.raises(LuminaError, match="E102"):
        chat(network, [*talks, [{"role": "assistant", "content": "x"}]], **options)
    with pytest.raises(LuminaError, match="E005"):
        chat(network, talks, batch_size=0)
