"""Tiny networks with random weights, of every kind of attention and feed-forward."""

from __future__ import annotations

import torch

from lumina.assemble.logical import split_fused
from lumina.model.build import build_network
from lumina.model.declared import fused_pieces, tensor_info
from lumina.model.network import Network
from lumina.model.spec import ModelSpec, MoeSpec
from lumina.state.checkpoint import CheckpointStore
from lumina.state.state import State

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
    "biases": {"attention_bias": True, "num_kv_heads": 2},
    "whole-width norm": {"qk_norm": "rms_full", "num_kv_heads": 2},
    "llama3": {
        "rope_scaling": "llama3",
        "rope_factor": 4.0,
        "rope_original_length": 16,
        "rope_low_freq_factor": 1.0,
        "rope_high_freq_factor": 4.0,
    },
    "latent": {"mla_kv_rank": 12, "mla_rope_dim": 4, "mla_value_dim": 6},
    "latent with a window": {
        "mla_kv_rank": 12,
        "mla_q_rank": 20,
        "mla_rope_dim": 2,
        "mla_value_dim": 8,
        "window_size": 6,
    },
    "window": {"window_size": 6},
    "window and sinks": {"window_size": 4, "attention_sinks": 2},
    "window and dilation": {"window_size": 3, "attention_dilation": 5},
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


def tiny(vocab_size: int = 61, seed: int = 1, **changes) -> Network:
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
    return build_network(ModelSpec(**values), seed=seed)


def prompts(count: int, vocab_size: int = 61) -> list[list[int]]:
    """Random prompts of different lengths."""
    torch.manual_seed(3)
    lengths = [5, 1, 17, 9, 12][:count]
    return [torch.randint(0, vocab_size, (n,)).tolist() for n in lengths]


def write_run(folder, networks: dict[int, Network], tokenizer, *, best=None, ema=None):
    """A run directory with one checkpoint for each step's network.

    Args:
        best: the step of the best one.
        ema: a network whose weights are every checkpoint's averaged weights.
    """
    store = CheckpointStore(folder, keep=9)
    tokenizer.save(folder / "tokenizer")
    for step, network in networks.items():
        state = State(
            tensors=logical(network),
            info=tensor_info(network.spec),
            counters={"step": step, "tokens": 0, "skipped": 0},
            spec=network.spec.to_dict(),
        )
        if ema is not None:
            state.optimizer["ema"] = logical(ema)
        kind = "best" if step == best else "regular"
        store.save(state, kind=kind, background=False)
    store.close()
    return folder


def logical(network: Network) -> dict[str, torch.Tensor]:
    """The tensors of a network under the names they have in files."""
    pieces = fused_pieces(network.spec)
    found = {}
    for name, tensor in network.state_dict().items():
        found |= split_fused(name, tensor, pieces)
    return found
