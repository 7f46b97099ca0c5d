"""Models of transformers with random weights, and ours beside them."""

from __future__ import annotations

import pytest
import torch

from lumina.batch import Batch
from lumina.model.build import build_network
from lumina.model.declared import fused_pieces
from lumina.state.huggingface.formats import FORMATS
from lumina.state.huggingface.names import entries
from networks import shifted

transformers = pytest.importorskip("transformers", reason="transformers is absent")

SHAPE = {
    "vocab_size": 90,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 3.0,
    "original_max_position_embeddings": 16,
}
EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2}
DEEPSEEK = {
    "num_key_value_heads": 4,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
    "n_shared_experts": 1,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 1.5,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 20,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 6,
    "qk_nope_head_dim": 12,
    "v_head_dim": 10,
    "num_mtp_layers": 0,
}
DEEPSEEK_V2 = {
    key: value
    for key, value in DEEPSEEK.items()
    if key not in ("n_group", "topk_group", "num_mtp_layers")
} | {"n_shared_experts": 2, "routed_scaling_factor": 1.0}
QWEN_WINDOW = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 0}
THEIRS = {
    "llama": ("llama", {"tie_word_embeddings": True}),
    "llama 3.1": ("llama", {"rope_parameters": LLAMA3}),
    "mistral": ("mistral", {"sliding_window": None, "head_dim": 12}),
    "mistral window": ("mistral", {"sliding_window": 6, "rms_norm_eps": 1e-3}),
    "qwen2": ("qwen2", {}),
    "qwen2 tied window": ("qwen2", {"tie_word_embeddings": True, **QWEN_WINDOW}),
    "qwen3": ("qwen3", {"head_dim": 24}),
    "qwen3 window": ("qwen3", {"head_dim": 8, **QWEN_WINDOW}),
    "mixtral": (
        "mixtral",
        {"num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 6},
    ),
    "qwen3-moe": ("qwen3_moe", {"moe_intermediate_size": 24, **EXPERTS}),
    "qwen3-moe every second": (
        "qwen3_moe",
        {
            "moe_intermediate_size": 24,
            "decoder_sparse_step": 2,
            "norm_topk_prob": True,
            "head_dim": 12,
            **EXPERTS,
        },
    ),
    "qwen3-moe first dense": (
        "qwen3_moe",
        {"moe_intermediate_size": 24, "mlp_only_layers": [0], **EXPERTS},
    ),
    "olmoe": ("olmoe", EXPERTS),
    "olmoe renormalised": ("olmoe", {"norm_topk_prob": True, **EXPERTS}),
    "deepseek-v3": ("deepseek_v3", DEEPSEEK),
    "deepseek-v3 without groups": (
        "deepseek_v3",
        DEEPSEEK
        | {
            "q_lora_rank": None,
            "n_group": 1,
            "topk_group": 1,
            "n_shared_experts": 2,
            "first_k_dense_replace": 0,
            "norm_topk_prob": False,
            "rms_norm_eps": 1e-5,
        },
    ),
    "deepseek-v2": ("deepseek_v2", DEEPSEEK_V2),
    "deepseek-v2 groups": (
        "deepseek_v2",
        DEEPSEEK_V2
        | {
            "topk_method": "group_limited_greedy",
            "n_group": 4,
            "topk_group": 2,
            "q_lora_rank": None,
            "routed_scaling_factor": 3.0,
            "first_k_dense_replace": 0,
        },
    ),
    "deepseek-v3 yarn": (
        "deepseek_v3",
        DEEPSEEK
        | {
            "v_head_dim": 18,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
                "beta_fast": 32,
                "beta_slow": 1,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
            },
        },
    ),
}

TAKEN_UP = {
    "deepseek-v3 in halves": ("deepseek_v3", DEEPSEEK | {"rope_interleave": False}),
    "deepseek-v3 in halves, narrow queries": (
        "deepseek_v3",
        DEEPSEEK | {"rope_interleave": False, "q_lora_rank": None},
    ),
    "deepseek-v2 yarn": (
        "deepseek_v2",
        DEEPSEEK_V2
        | {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1000.0,
                "factor": 40.0,
                "original_max_position_embeddings": 16,
                "beta_fast": 32,
                "beta_slow": 1,
                "mscale": 0.707,
                "mscale_all_dim": 0.707,
            }
        },
    ),
}
"""Habits that become other weights as they are read."""


def theirs_of(case, **changes):
    """Their model, every parameter and buffer of weight drawn at random."""
    name, options = (THEIRS | TAKEN_UP)[case]
    config = transformers.AutoConfig.for_model(name, **(SHAPE | options | changes))
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    assert type(model).__name__ == FORMATS[name].architecture
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            noise = torch.randn(tensor.shape, generator=generator) * 0.2
            tensor.copy_(noise + 1 if "norm" in key else noise)
    return model


def network_of(spec, tensors):
    """Our network of imported tensors; all of them must be wanted."""
    network, tensors = build_network(spec, seed=None), dict(tensors)
    pieces = fused_pieces(network.spec)
    with torch.no_grad():
        for name, target in network.state_dict().items():
            names = pieces[name].names if name in pieces else (name,)
            dim = pieces[name].dim if name in pieces else 0
            target.copy_(torch.cat([tensors.pop(one) for one in names], dim=dim))
    assert not tensors, f"left over: {list(tensors)}"
    return network.eval()


def logical_gradients(network):
    pieces, found = fused_pieces(network.spec), {}
    for name, parameter in network.named_parameters():
        names = pieces[name].names if name in pieces else (name,)
        split = [parameter.grad]
        if name in pieces:
            split = parameter.grad.split(list(pieces[name].sizes), pieces[name].dim)
        found |= dict(zip(names, split, strict=True))
    return found


def check_gradients(network, model, row, ids):
    """Loss and every gradient, each also as a whole: slope one."""
    labels = shifted(ids)
    sums, _ = network(Batch.from_rows(ids, labels))
    loss = sums.loss_sum / sums.weight_sum
    expected = torch.nn.functional.cross_entropy(
        model(ids).logits.flatten(0, 1), labels.flatten(), ignore_index=-100
    )
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    loss.backward()
    expected.backward()
    ours, theirs = logical_gradients(network), dict(model.named_parameters())
    rows = list(entries(network.spec, row, fused=True))
    rows = [entry for entry in rows if entry.name in theirs]
    assert {entry.name for entry in rows} == set(theirs)
    assert {entry.logical for entry in rows} == set(ours)
    for entry in rows:
        their, our = theirs[entry.name].grad, ours[entry.logical]
        if entry.rows is not None:
            their = their[:, entry.rows[0] : entry.rows[1]]
        if entry.logical.endswith(("embedding.weight", "head.weight")):
            our = our[: their.shape[0]]
        torch.testing.assert_close(
            our, their, rtol=1e-4, atol=1e-5, msg=lambda m, e=entry: f"{e.name}: {m}"
        )
        if their.norm() > 1e-4:
            slope = (our * their).sum() / their.square().sum()
            assert abs(slope - 1) < 1e-4, entry.name
