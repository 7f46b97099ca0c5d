from __future__ import annotations

import pytest

from infer.networks import SHAPES, tiny
from lumina.data.tokenizer import Tokenizer
from lumina.model.network import Network


@pytest.fixture(params=SHAPES, scope="module")
def network(request) -> Network:
    return tiny(**SHAPES[request.param])


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    texts = [
        "the quick brown fox jumps over the lazy dog, and the dog does not mind",
        "naïve café — ünïcödé 日本語 🙂 text too",
    ]
    return Tokenizer.train(texts * 4, 320)
