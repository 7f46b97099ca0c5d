"""The resolved shape of a model: every number fixed, nothing left to decide."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class MoeSpec:
    """Routed layers.

    Attributes:
        layers: indices of the blocks whose feed-forward is routed.
        intermediate_size: SwiGLU width of one expert.
        dispatch: "dropless" or "capacity".
    """

    num_experts: int
    top_k: int
    intermediate_size: int
    layers: tuple[int, ...]
    dispatch: str = "dropless"
    capacity_factor: float = 1.25
    normalise_top_k: bool = True
    balance_weight: float = 0.01
    z_loss_weight: float = 0.001
    bias_update_rate: float = 0.0


@dataclass(frozen=True)
class ModelSpec:
    """Shape of a decoder-only transformer; field meanings as in `ModelSection`.

    Attributes:
        vocab_size: tokens the tokenizer knows; logits past it are never returned.
        padded_vocab_size: rows of the embedding and head, a multiple of 64.
    """

    vocab_size: int
    padded_vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    seq_length: int
    rope_theta: float = 10000.0
    rope_scaling: str = "none"
    rope_factor: float = 1.0
    rope_original_length: int | None = None
    norm_eps: float = 1e-5
    qk_norm: str = "none"
    window_size: int = 0
    tie_embeddings: bool = False
    dropout: float = 0.0
    init_std: float = 0.02
    moe: MoeSpec | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> ModelSpec:
        """The inverse of `to_dict`; refuses unknown keys (TypeError)."""
        values = dict(values)
        if values.get("moe") is not None:
            moe = dict(values["moe"])
            moe["layers"] = tuple(moe["layers"])
            values["moe"] = MoeSpec(**moe)
        return ModelSpec(**values)
