"""Tiny networks with random weights, of every kind of attention and feed-forward."""

from __future__ import annotations

import torch

from lumina.model.network import Network, build_network
from lumina.model.spec import ModelSpec, MoeSpec

MOE = MoeSpec(num_experts=4, top_k=2, intermediate_size=24, layers=(0, 2))
CAPACITY = MoeSpec(
    num_experts=4,
    top_k=2,
    intermediate_size=24,
    layers=(1,),
    dispatch="capacity",
    capacity_factor=0.3,
)
SHAPES = {
    "dense": {},
    "grouped": {"num_kv_heads": 2},
    "one key head": {"num_kv_heads": 1, "qk_norm": "rms"},
    "window": {"window_size": 6},
    "window and groups": {"window_size": 5, "num_kv_heads": 2, "qk_norm": "l2"},
    "yarn": {
        "rope_scaling": "yarn",
        "rope_factor": 4.0,
        "rope_original_length": 16,
    },
    "tied": {"tie_embeddings": True, "dropout": 0.1},
    "experts": {"moe": MOE},
    "experts with capacity": {"moe": CAPACITY},
    "experts and window": {"moe": MOE, "window_size": 6, "num_kv_heads": 2},
}


def tiny(vocab_size: int = 61, **changes) -> Network:
    """Random weights, large enough to prefer some tokens clearly."""
    values = {
        "vocab_size": vocab_size,
        "padded_vocab_size": -(-vocab_size // 64) * 64,
        "hidden_size": 32,
        "num_layers": 3,
        "num_heads": 4,
        "num_kv_heads": 4,
        "head_dim": 8,
        "intermediate_size": 48,
        "seq_length": 64,
        "init_std": 0.2,
        **changes,
    }
    return build_network(ModelSpec(**values), seed=1)


def prompts(count: int, vocab_size: int = 61) -> list[list[int]]:
    """Random prompts of different lengths."""
    torch.manual_seed(3)
    lengths = [5, 1, 17, 9, 12][:count]
    return [torch.randint(0, vocab_size, (n,)).tolist() for n in lengths]
