"""Logical names: fused matrices come apart into named tensors and back."""

from __future__ import annotations

import pytest
import torch

from lumina.model.build import build_network
from lumina.model.declared import fused_pieces, tensor_info
from lumina.model.spec import MoeSpec, TaskSpec
from networks import random_ids, tiny_spec

MOE = MoeSpec(
    num_experts=4, top_k=2, intermediate_size=24, layers=(1,), bias_update_rate=0.1
)
LATENT = {
    "mla_kv_rank": 20,
    "mla_q_rank": 12,
    "mla_rope_dim": 2,
    "mla_value_dim": 4,
}
SPECS = {
    "dense": tiny_spec(),
    "tied": tiny_spec(tie_embeddings=True, num_kv_heads=1),
    "rms": tiny_spec(qk_norm="rms"),
    "l2": tiny_spec(qk_norm="l2"),
    "rms-full": tiny_spec(qk_norm="rms_full"),
    "bias": tiny_spec(attention_bias=True),
    "latent": tiny_spec(num_kv_heads=4, **LATENT),
    "moe": tiny_spec(moe=MOE),
    "tasks": tiny_spec(tasks=TaskSpec(("a", "b"))),
}


def logical_tensors(network):
    pieces, found = fused_pieces(network.spec), {}
    for name, tensor in network.state_dict().items():
        if name not in pieces:
            found[name] = tensor
            continue
        part = pieces[name]
        split = tensor.split(part.sizes, part.dim)
        found |= dict(zip(part.names, split, strict=True))
    return found


@pytest.mark.parametrize("kind", SPECS)
def test_round_trip_through_logical_tensors(kind):
    network = build_network(SPECS[kind], seed=1)
    other = build_network(SPECS[kind], seed=2)
    tensors, pieces = logical_tensors(network), fused_pieces(other.spec)
    joined = {
        name: torch.cat([tensors[n] for n in pieces[name].names], pieces[name].dim)
        if name in pieces
        else tensors[name]
        for name in other.state_dict()
    }
    other.load_state_dict(joined)
    ids, task = random_ids(2, 24), 1 if kind == "tasks" else None
    found, wanted = (one.logits(ids, task_id=task) for one in (other, network))
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_the_pieces_are_what_their_names_say():
    """Zeroing `v` silences attention; zeroing `gate` silences the feed-forward."""
    network = build_network(tiny_spec(num_layers=1))
    block, stem = network.backbone.blocks[0], "backbone.blocks.0."
    tensors = logical_tensors(network)
    q, k, v = (tensors[f"{stem}attention.{part}.weight"] for part in "qkv")
    assert [t.shape[0] for t in (q, k, v)] == [32, 16, 16]
    x = torch.randn(1, 5, 32)
    with torch.no_grad():
        gate = torch.nn.functional.linear(x, tensors[f"{stem}feedforward.gate.weight"])
        up = torch.nn.functional.linear(x, tensors[f"{stem}feedforward.up.weight"])
        inner = torch.nn.functional.silu(gate) * up
        expected = torch.nn.functional.linear(
            inner, tensors[f"{stem}feedforward.down.weight"]
        )
        torch.testing.assert_close(block.feedforward(x), expected)


@pytest.mark.parametrize("kind", SPECS)
def test_every_tensor_has_a_role_and_an_axis_a_dimension(kind):
    network = build_network(SPECS[kind], device="meta")
    info, tensors = tensor_info(network.spec), logical_tensors(network)
    assert set(info) == set(tensors)
    roles = {
        "matrix", "embedding", "head", "norm", "bias", "expert", "router", "buffer",
    }  # fmt: skip
    for name, tensor in tensors.items():
        assert info[name].role in roles
        assert len(info[name].axes) == tensor.ndim, name
    lengths = {}
    for name, tensor in tensors.items():
        for axis, size in zip(info[name].axes, tensor.shape, strict=True):
            if axis != "ffn":  # dense and expert widths differ
                assert lengths.setdefault(axis, size) == size, (name, axis)
