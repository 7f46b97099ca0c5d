from __future__ import annotations

import pytest

from lumina.config import Config
from lumina.errors import LuminaError
from lumina.plan.kinds.moe import routed_layers
from lumina.plan.shape import resolve_spec


@pytest.mark.covers("TOK-05")
def test_what_is_left_open_is_filled_in() -> None:
    spec = resolve_spec(
        Config(vocab_size=1000, hidden_size=192, num_heads=6, num_layers=3)
    )
    assert spec.padded_vocab_size == 1024
    assert spec.head_dim == 32
    assert spec.num_kv_heads == 6
    assert spec.intermediate_size == 512  # 8/3 of 192, already a multiple of 128
    assert spec.moe is None


def test_the_default_width_is_rounded_up_to_128() -> None:
    spec = resolve_spec(Config(vocab_size=64, hidden_size=200, num_heads=2))
    assert spec.intermediate_size == 640  # 533.3


@pytest.mark.parametrize(
    ("pattern", "layers"),
    [
        ("all", (0, 1, 2, 3, 4)),
        ("interleaved", (1, 3)),
        ("sandwich", (1, 2, 3)),
    ],
)
def test_moe_patterns(pattern: str, layers: tuple[int, ...]) -> None:
    config = Config(vocab_size=64, num_layers=5, use_moe=True, moe_pattern=pattern)
    spec = resolve_spec(config)
    assert spec.moe is not None
    assert spec.moe.layers == layers


def test_a_pattern_that_routes_nothing_is_refused() -> None:
    with pytest.raises(LuminaError, match=r"sandwich routes none of 2") as caught:
        routed_layers("sandwich", 2)
    assert caught.value.code == "E002"
    assert "--num-layers 3" in caught.value.hint


@pytest.mark.covers("TOK-10")
def test_a_tokenizer_larger_than_the_model_is_refused_before_training() -> None:
    config = Config(vocab_size=1000)
    with pytest.raises(LuminaError) as caught:
        resolve_spec(config, tokenizer_vocab_size=1001)
    assert caught.value.code == "E002"
    assert "1,001" in caught.value.message
    assert "--vocab-size 1024" in caught.value.hint


def test_a_smaller_tokenizer_fits_and_limits_the_logits() -> None:
    spec = resolve_spec(Config(vocab_size=1000), tokenizer_vocab_size=700)
    assert (spec.vocab_size, spec.padded_vocab_size) == (700, 1024)


def test_the_vocabulary_is_the_tokenizers_where_none_is_named() -> None:
    assert resolve_spec(Config(), 777).vocab_size == 777
    assert resolve_spec(Config(tokenizer_vocab_size=512)).vocab_size == 512
    with pytest.raises(LuminaError) as caught:
        resolve_spec(Config())
    assert caught.value.code == "E005"


def test_yarn_knows_the_length_before_extension() -> None:
    spec = resolve_spec(
        Config(vocab_size=64, seq_length=256, rope_scaling="yarn", rope_factor=4)
    )
    assert spec.rope_original_length == 64
