"""From the options of a model to its resolved shape. Imports no torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lumina.errors import LuminaError
from lumina.model.spec import ModelSpec
from lumina.plan.adapters import with_adapters
from lumina.plan.kinds.kind import VOCAB_MULTIPLE, Known, round_up
from lumina.plan.kinds.table import PLANNED

if TYPE_CHECKING:
    from lumina.config import Config

WIDTH_MULTIPLE = 128
"""The default SwiGLU width is rounded up to this."""


def resolve_spec(
    config: Config, tokenizer_vocab_size: int | None = None, num_puzzles: int = 1
) -> ModelSpec:
    """Fix every number of the model's shape.

    Args:
        config: the options; a Config has already refused numbers that do not divide.
        tokenizer_vocab_size: tokens the tokenizer knows, once there is one. The
            logits returned are as many; without it, as many as `vocab_size`.
        num_puzzles: identifiers of the puzzles, for a model of puzzles.

    Raises:
        LuminaError: E002 where the tokenizer knows more tokens than the model has
            room for, or where `moe_pattern` leaves no routed layer; E005 where the
            size of the vocabulary is known from nowhere.
    """
    vocab_size, rows = _vocabulary(config, tokenizer_vocab_size)
    known = Known(vocab_size, rows, num_puzzles)
    spec = _transformer(config, known)
    for kind in PLANNED:
        if kind.chosen(config):
            spec = kind.resolve(config, spec, known)
            if kind.alone:
                break
    return with_adapters(config, spec)


def _transformer(config: Config, known: Known) -> ModelSpec:
    """A plain transformer, of no kind."""
    model = config.model
    head_dim = model.head_dim or model.hidden_size // model.num_heads
    intermediate_size = model.intermediate_size or round_up(
        math.ceil(model.hidden_size * 8 / 3), WIDTH_MULTIPLE
    )
    original = model.rope_original_length
    low, high = model.rope_low_freq_factor, model.rope_high_freq_factor
    if original is None and model.rope_scaling in ("yarn", "llama3"):
        original = max(1, round(model.seq_length / model.rope_factor))
    if model.rope_scaling == "llama3":
        low, high = low or 1.0, high or 4.0
    return ModelSpec(
        vocab_size=known.vocab_size,
        padded_vocab_size=round_up(known.rows, VOCAB_MULTIPLE),
        hidden_size=model.hidden_size,
        num_layers=model.num_layers,
        num_heads=model.num_heads,
        num_kv_heads=model.num_kv_heads or model.num_heads,
        head_dim=head_dim,
        intermediate_size=intermediate_size,
        seq_length=model.seq_length,
        rope_theta=model.rope_theta,
        rope_scaling=model.rope_scaling,
        rope_factor=model.rope_factor,
        rope_original_length=original,
        rope_low_freq_factor=low,
        rope_high_freq_factor=high,
        norm_eps=model.norm_eps,
        qk_norm=model.qk_norm,
        attention_bias=model.attention_bias,
        **_latent(config, head_dim),
        window_size=model.window_size,
        attention_sinks=model.attention_sinks,
        attention_dilation=model.attention_dilation,
        tie_embeddings=model.tie_embeddings,
        dropout=model.dropout,
        init_std=model.init_std,
        pos_encodings=model.pos_encodings,
        scale_embeddings=model.scale_embeddings,
        use_stable_embedding=model.use_stable_embedding,
    )


def _latent(config: Config, head_dim: int) -> dict[str, Any]:
    """The fields of latent attention, or none."""
    model = config.model
    if not model.mla_kv_rank:
        return {}
    rotated = model.mla_rope_dim or max(2, head_dim // 4 * 2)
    return {
        "mla_kv_rank": model.mla_kv_rank,
        "mla_q_rank": model.mla_q_rank,
        "mla_rope_dim": rotated,
        "mla_value_dim": model.mla_value_dim or head_dim - rotated,
    }


def _vocabulary(config: Config, tokenizer_vocab_size: int | None) -> tuple[int, int]:
    """(tokens that get a logit, rows the embedding needs before padding)."""
    asked = config.model.vocab_size
    if asked is None:
        known = tokenizer_vocab_size or config.data.tokenizer_vocab_size
        if known is None:
            raise LuminaError(
                "E005",
                "the size of the vocabulary is not known: there is no tokenizer yet",
                "name --vocab-size, --tokenizer or --tokenizer-vocab-size",
            )
        return known, known
    if tokenizer_vocab_size is None:
        return asked, asked
    if tokenizer_vocab_size > asked:
        raise LuminaError(
            "E002",
            f"the tokenizer knows {tokenizer_vocab_size:,} tokens but the model has "
            f"room for {asked:,}",
            f"use --vocab-size {round_up(tokenizer_vocab_size, VOCAB_MULTIPLE)}, or a "
            f"tokenizer of at most {asked} tokens",
        )
    return tokenizer_vocab_size, asked
