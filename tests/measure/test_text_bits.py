"""Bits of a text: every token predicted once, from what stands before it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from lumina.data.tokenizer import Tokenizer
from lumina.measure.text_bits import text_bits
from lumina.model.build import build_network
from lumina.model.network import Network
from lumina.model.spec import ModelSpec

TEXTS = ["the owl and the fox", "a hen", "", "the barn on the hill by the lake " * 9]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS * 3, 300)


@pytest.fixture(scope="module")
def network(tokenizer: Tokenizer) -> Network:
    vocab = tokenizer.vocab_size
    spec = ModelSpec(
        vocab_size=vocab,
        padded_vocab_size=-(-vocab // 64) * 64,
        hidden_size=32,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        intermediate_size=64,
        seq_length=16,
    )
    return build_network(spec, seed=3).eval()


def plain_bits(network: Network, tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """One token after the other, from the whole text before it."""
    bits = 0.0
    for text in texts:
        ids = tokenizer.prompt(text)
        if len(ids) > 1:
            logits = network.logits(torch.tensor([ids]))[0].log_softmax(-1)
            bits -= sum(logits[n, token].item() for n, token in enumerate(ids[1:]))
    return bits / math.log(2)


def test_texts_that_fit_the_context_cost_what_their_tokens_cost(
    network: Network, tokenizer: Tokenizer
) -> None:
    with torch.no_grad():
        expected = plain_bits(network, tokenizer, TEXTS)
    for size in (1, 3, 16):
        bits = text_bits(network, tokenizer, TEXTS, context=512, batch_size=size)
        assert bits == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("context", [2, 7, 16])
def test_a_long_text_has_each_token_predicted_once(
    network: Network, tokenizer: Tokenizer, context: int
) -> None:
    ignorant = build_network(network.spec, seed=3).eval()
    for parameter in ignorant.parameters():
        torch.nn.init.zeros_(parameter)  # every token is as likely as any other
    tokens = sum(len(tokenizer.encode(text)) for text in TEXTS)
    bits = text_bits(ignorant, tokenizer, TEXTS, context=context)
    assert bits == pytest.approx(tokens * math.log2(network.spec.vocab_size), rel=1e-5)
