"""The shape of the network."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lumina.config.sections.section import Section


class ModelSection(Section):
    """Shape of the network."""

    describes_model = True

    vocab_size: int | None = Field(
        None,
        ge=2,
        description="tokens of the vocabulary; default: those of the tokenizer, "
        "rounded up to a multiple of 64",
    )
    hidden_size: int = Field(128, ge=8, description="model width")
    num_layers: int = Field(2, ge=1, description="transformer blocks")
    num_heads: int = Field(2, ge=1, description="query heads")
    num_kv_heads: int | None = Field(
        None, ge=1, description="key/value heads; default: as many as query heads"
    )
    head_dim: int | None = Field(
        None, ge=2, description="width of a head; default: hidden size / heads"
    )
    intermediate_size: int | None = Field(
        None, ge=1, description="SwiGLU width; default: 8/3 hidden, rounded up to 128"
    )
    seq_length: int = Field(
        256,
        ge=2,
        description="tokens in a row (default 256; with init_from: by the data)",
    )
    rope_theta: float = Field(10000.0, gt=0, description="base of the rotary embedding")
    rope_scaling: Literal["none", "linear", "ntk", "yarn", "llama3"] = Field(
        "none", description="how rotary embeddings reach past the trained length"
    )
    rope_factor: float = Field(
        1.0, ge=1, description="context extension factor of the rope scaling"
    )
    rope_original_length: int | None = Field(
        None,
        ge=2,
        description="trained length before extension; default: seq_length / factor",
    )
    rope_low_freq_factor: float | None = Field(
        None,
        gt=0,
        description="of rope_scaling llama3: channels that turn fewer times than this "
        "in rope_original_length tokens are slowed down by rope_factor; default: 1",
    )
    rope_high_freq_factor: float | None = Field(
        None,
        gt=0,
        description="of rope_scaling llama3: channels that turn more often than this "
        "in rope_original_length tokens stay as they are; default: 4",
    )
    norm_eps: float = Field(1e-5, gt=0, description="epsilon of every RMSNorm")
    qk_norm: Literal["none", "rms", "rms_full", "l2"] = Field(
        "none",
        description="normalise queries and keys (rms: each head, as Qwen3; rms_full: "
        "all heads together, as OLMoE; l2: scaled)",
    )
    block_style: Literal["llama", "gpt2", "phi"] = Field(
        "llama",
        description="blocks: llama (RMSNorm, SwiGLU); gpt2 and phi (norms that shift, "
        "GELU, biases everywhere; phi: both branches beside each other), for weights "
        "of these families",
    )
    rotary_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="of block_style phi: share of a head's channels that are rotated",
    )
    attention_bias: bool = Field(
        False, description="biases on queries, keys and values, as Qwen2"
    )
    mla_kv_rank: int = Field(
        0, ge=0, description="width of the latent of keys and values (MLA); 0: none"
    )
    mla_q_rank: int = Field(
        0, ge=0, description="width of the latent of queries; 0: none"
    )
    mla_rope_dim: int = Field(
        0, ge=0, description="rotated channels of a head; 0: half of them"
    )
    mla_value_dim: int = Field(
        0,
        ge=0,
        description="width of a head's values; 0: as many as it has channels that are "
        "not rotated",
    )
    window_size: int = Field(
        0, ge=0, description="sliding attention window in tokens; 0: full attention"
    )
    attention_sinks: int = Field(
        0,
        ge=0,
        description=(
            "with a sliding window: this many tokens at the beginning of a document "
            "stay visible to all later ones"
        ),
    )
    attention_dilation: int = Field(
        0,
        ge=0,
        description="with a sliding window: tokens before it stay visible at every "
        "multiple of this distance; 0: none",
    )
    tie_embeddings: bool = Field(False, description="the head is the embedding")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on both residuals")
    init_std: float = Field(
        0.02, gt=0, description="standard deviation of initial weights"
    )
    pos_encodings: Literal["rope", "learned", "sinusoidal", "none"] = Field(
        "rope",
        description="how a token knows its place: rotated queries and keys, a learned "
        "or a computed vector added to it, or by causal order alone",
    )
    scale_embeddings: bool = Field(
        False, description="token vectors times sqrt(hidden_size), as Gemma"
    )
    use_stable_embedding: bool = Field(
        False,
        description="token vectors start Xavier-uniform and go through a layer norm",
    )
