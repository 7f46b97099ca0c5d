"""A routed network computes what transformers' Mixtral computes, forward and back."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from lumina.batch import Batch
from lumina.model.build import build_network
from lumina.model.network import Network
from lumina.model.spec import ModelSpec, MoeSpec
from lumina.state.huggingface.formats import FORMATS
from lumina.state.huggingface.names import entries

transformers = pytest.importorskip("transformers")


def spec_with(**changes):
    """Tiny, with unequal sizes everywhere, so that a transposition cannot hide."""
    values = {
        "vocab_size": 90,
        "padded_vocab_size": 128,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 8,
        "intermediate_size": 48,
        "seq_length": 64,
        "init_std": 0.2,
        "moe": MoeSpec(5, 2, 40, layers=(0, 1)),
    }
    return ModelSpec(**(values | changes))


def mixtral_like(network: Network):
    """A MixtralForCausalLM holding the same weights, set one parameter at a time."""
    spec = network.spec
    config = transformers.MixtralConfig(
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.moe.intermediate_size,
        num_hidden_layers=spec.num_layers,
        num_attention_heads=spec.num_heads,
        num_key_value_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        num_local_experts=spec.moe.num_experts,
        num_experts_per_tok=spec.moe.top_k,
        max_position_embeddings=spec.seq_length,
        rms_norm_eps=spec.norm_eps,
        sliding_window=spec.window_size or None,
        rope_parameters={"rope_type": "default", "rope_theta": spec.rope_theta},
    )
    model = transformers.MixtralForCausalLM(config)
    with torch.no_grad():
        for theirs, ours in pairs(network, model):
            theirs.copy_(ours)
    return model


def pairs(network, model, grad=False):
    """(theirs, ours) for every parameter or its gradient."""
    kv = network.spec.num_kv_heads * network.spec.head_dim
    q = network.spec.num_heads * network.spec.head_dim
    v = network.spec.vocab_size

    def of(parameter):
        return parameter.grad if grad else parameter

    yield of(model.model.embed_tokens.weight), of(network.backbone.embedding.weight)[:v]
    yield of(model.lm_head.weight), of(network.objective.head.weight)[:v]
    yield of(model.model.norm.weight), of(network.backbone.norm.weight)
    for theirs, ours in zip(model.model.layers, network.backbone.blocks, strict=True):
        parts = of(ours.attention.qkv.weight).split([q, kv, kv])
        attention = theirs.self_attn
        for part, module in zip(
            parts, (attention.q_proj, attention.k_proj, attention.v_proj), strict=True
        ):
            yield of(module.weight), part
        yield of(attention.o_proj.weight), of(ours.attention.out.weight)
        yield of(theirs.input_layernorm.weight), of(ours.attention_norm.weight)
        norm = theirs.post_attention_layernorm
        yield of(norm.weight), of(ours.feedforward_norm.weight)
        yield of(theirs.mlp.gate.weight), of(ours.feedforward.router.weight)
        yield of(theirs.mlp.experts.gate_up_proj), of(ours.feedforward.gate_up)
        yield of(theirs.mlp.experts.down_proj), of(ours.feedforward.down)


@pytest.mark.covers("MOD-15: top-k routed SwiGLU experts")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"window_size": 5},
        {"moe": MoeSpec(8, 1, 24, layers=(0, 1))},
        {"moe": MoeSpec(4, 4, 24, layers=(0, 1))},
        {"num_kv_heads": 1, "head_dim": 16},
    ],
    ids=["plain", "window", "top1", "all-experts", "mqa"],
)
def test_logits_and_gradients_equal_mixtral(changes):
    network = build_network(spec_with(**changes), seed=3)
    model = mixtral_like(network)
    ids = torch.randint(0, 90, (3, 17), generator=torch.Generator().manual_seed(0))
    ours, theirs = network.logits(ids), model(ids).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)

    labels = torch.cat([ids[:, 1:], torch.full((3, 1), -100)], dim=1)
    sums, _ = network(Batch.from_rows(ids, labels))
    loss = sums.loss_sum / sums.weight_sum
    reference = F.cross_entropy(theirs[:, :-1].reshape(-1, 90), ids[:, 1:].reshape(-1))
    torch.testing.assert_close(loss, reference, rtol=1e-5, atol=1e-6)
    loss.backward()
    reference.backward()
    for their_grad, our_grad in pairs(network, model, grad=True):
        torch.testing.assert_close(our_grad, their_grad, rtol=1e-4, atol=1e-5)
        if their_grad.norm() > 1e-5:  # a gradient scaled as a whole would pass above
            slope = (our_grad * their_grad).sum() / their_grad.square().sum()
            assert abs(slope - 1) < 1e-4
    router = network.backbone.blocks[0].feedforward.router.weight
    # A single choice, renormalised, always weighs one: nothing to learn from the loss.
    assert (router.grad.norm() > 1e-3) == (network.spec.moe.top_k > 1)


def test_every_logical_tensor_has_one_place_on_disk():
    """Per-expert and fused tables name the same logical tensors, each whole."""
    network = build_network(spec_with(), device="meta", seed=None)
    from lumina.model.declared import tensor_info

    logical = {n for n in tensor_info(network.spec) if not n.endswith(".load")}
    for fused in (False, True):
        assert {
            entry.logical
            for entry in entries(network.spec, FORMATS["mixtral"], fused=fused)
        } == logical
