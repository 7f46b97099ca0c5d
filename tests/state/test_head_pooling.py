"""Key/value heads pooled into fewer: what is kept, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lumina.errors import LuminaError
from lumina.model.build import build_network
from lumina.model.declared import fused_pieces
from lumina.model.spec import MoeSpec
from lumina.state.head_pooling import pool_key_value_heads
from networks import random_ids, tiny_spec

SPECS = {
    "plain": {},
    "biases": {"attention_bias": True},
    "norm of each head": {"qk_norm": "rms"},
    "norm of all heads": {"qk_norm": "rms_full"},
    "scales": {"qk_norm": "l2"},
    "experts": {"moe": MoeSpec(4, 2, 24, layers=(1,)), "window_size": 5},
}


def tensors_of(network):
    pieces, found = fused_pieces(network.spec), {}
    for name, tensor in network.state_dict().items():
        names, split = (name,), [tensor]
        if name in pieces:
            names = pieces[name].names
            split = tensor.split(list(pieces[name].sizes), pieces[name].dim)
        found |= dict(zip(names, split, strict=True))
    return found


def filled(spec, tensors):
    network = build_network(spec, seed=None)
    pieces = fused_pieces(network.spec)
    with torch.no_grad():
        for name, target in network.state_dict().items():
            names = pieces[name].names if name in pieces else (name,)
            dim = pieces[name].dim if name in pieces else 0
            target.copy_(torch.cat([tensors[one] for one in names], dim))
    return network.eval()


def drawn(spec):
    """Random weights everywhere, norms and biases too."""
    network = build_network(spec, seed=0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return network.eval()


@pytest.mark.covers("MOD-03: mean-pool KV heads into groups")
@pytest.mark.parametrize("kind", SPECS)
def test_heads_that_are_alike_pool_into_the_same_function(kind):
    """Two key heads, each written twice, and pooled again: nothing has changed."""
    few = drawn(tiny_spec(num_kv_heads=2, **SPECS[kind]))
    spec, tensors = few.spec, tensors_of(few)
    for name, tensor in tensors.items():
        norm = name.endswith("k_norm.weight") and spec.qk_norm in ("rms_full", "l2")
        if ".attention.k." in name or ".attention.v." in name or norm:
            heads = tensor.unflatten(0, (2, -1))
            tensors[name] = heads.repeat_interleave(2, dim=0).flatten(0, 1)
    many_spec = replace(spec, num_kv_heads=4)
    many = filled(many_spec, tensors)
    ids = random_ids(2, 20)
    expected = few.logits(ids)
    torch.testing.assert_close(many.logits(ids), expected, rtol=1e-4, atol=1e-5)

    pooled_spec, pooled = pool_key_value_heads(many_spec, tensors, 2)
    assert pooled_spec == spec and pooled.keys() == tensors.keys()
    assert torch.equal(filled(pooled_spec, pooled).logits(ids), expected)


@pytest.mark.covers("MOD-03: mean-pool KV heads into groups")
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_pooled_heads_are_means_of_neighbours(heads):
    network = build_network(tiny_spec(num_kv_heads=4), seed=0)
    tensors = tensors_of(network)
    spec, pooled = pool_key_value_heads(network.spec, tensors, heads)
    name = "backbone.blocks.1.attention.k.weight"
    parts = tensors[name].split(8)
    group = 4 // heads
    expected = [sum(parts[i : i + group]) / group for i in range(0, 4, group)]
    torch.testing.assert_close(pooled[name], torch.cat(expected))
    assert filled(spec, pooled).logits(random_ids(1, 5)).isfinite().all()
    untouched = [n for n in tensors if not n.endswith((".k.weight", ".v.weight"))]
    assert all(pooled[n] is tensors[n] for n in untouched)


@pytest.mark.parametrize("heads", [0, 3, 8])
def test_heads_that_do_not_divide_are_refused(heads):
    spec = tiny_spec(num_kv_heads=4)
    with pytest.raises(LuminaError) as caught:
        pool_key_value_heads(spec, {}, heads)
    assert caught.value.code == "E002" and str(heads) in caught.value.message


def test_latent_attention_is_refused():
    latent = {"mla_kv_rank": 8, "mla_rope_dim": 4, "mla_value_dim": 4}
    with pytest.raises(LuminaError, match="mla_kv_rank"):
        pool_key_value_heads(tiny_spec(num_kv_heads=4, **latent), {}, 2)
