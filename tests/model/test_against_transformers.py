"""Logits and gradients against transformers, on tiny random weights in float32."""

from __future__ import annotations

import pytest
import torch

from lumina.batch import Batch
from lumina.model.build import build_network
from lumina.model.declared import fused_pieces
from lumina.model.spec import MoeSpec
from networks import random_ids, shifted, tiny_spec

transformers = pytest.importorskip("transformers", reason="transformers is absent")

OUTSIDE = {
    "backbone.embedding.weight": "model.embed_tokens.weight",
    "backbone.norm.weight": "model.norm.weight",
    "objective.head.weight": "lm_head.weight",
}
INSIDE = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention.q.weight": "self_attn.q_proj.weight",
    "attention.k.weight": "self_attn.k_proj.weight",
    "attention.v.weight": "self_attn.v_proj.weight",
    "attention.out.weight": "self_attn.o_proj.weight",
    "attention.q_norm.weight": "self_attn.q_norm.weight",
    "attention.k_norm.weight": "self_attn.k_norm.weight",
    "feedforward_norm.weight": "post_attention_layernorm.weight",
    "feedforward.gate.weight": "mlp.gate_proj.weight",
    "feedforward.up.weight": "mlp.up_proj.weight",
    "feedforward.down.weight": "mlp.down_proj.weight",
    "feedforward.router.weight": "mlp.gate.weight",
    "feedforward.gate": "mlp.experts.gate_up_proj",
    "feedforward.up": "mlp.experts.gate_up_proj",
    "feedforward.down": "mlp.experts.down_proj",
}


def theirs_for(spec, **extra):
    """Their model of our shape, its weights drawn at random."""
    kinds = {"none": ("Llama", {}), "rms": ("Qwen3", {})}
    kind, options = kinds[spec.qk_norm]
    rope = {"rope_type": "default", "rope_theta": spec.rope_theta}
    if spec.rope_scaling != "none":
        rope |= {"rope_type": spec.rope_scaling, "factor": spec.rope_factor}
        rope["original_max_position_embeddings"] = spec.rope_original_length
    if spec.moe is not None:
        kind = "Mixtral"
        options = {
            "num_local_experts": spec.moe.num_experts,
            "num_experts_per_tok": spec.moe.top_k,
        }
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        num_hidden_layers=spec.num_layers,
        num_attention_heads=spec.num_heads,
        num_key_value_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        intermediate_size=spec.intermediate_size,
        max_position_embeddings=spec.seq_length,
        rms_norm_eps=spec.norm_eps,
        tie_word_embeddings=spec.tie_embeddings,
        rope_parameters=rope,
        attn_implementation="eager",
        **options,
        **extra,
    )
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.2
            parameter.copy_(noise + 1 if "norm" in name else noise)
    return model


def their_tensor(logical, theirs):
    """Their tensor of a logical name; their experts' gate and up are one."""
    if logical in OUTSIDE:
        return theirs[OUTSIDE[logical]]
    _, _, index, rest = logical.split(".", 3)
    found = theirs[f"model.layers.{index}.{INSIDE[rest]}"]
    if rest in ("feedforward.gate", "feedforward.up"):
        return found.chunk(2, dim=1)[rest == "feedforward.up"]
    return found


def whole(name, pieces, theirs, rows):
    """Our parameter `name` put together from their tensors, padded to our rows."""
    names, dim = (name,), 0
    if name in pieces:
        names, dim = pieces[name].names, pieces[name].dim
    value = torch.cat([their_tensor(one, theirs) for one in names], dim)
    if name.endswith(("embedding.weight", "head.weight")):
        padding = value.new_zeros(rows - value.shape[0], value.shape[1])
        value = torch.cat([value, padding])
    return value


def pair(spec, **extra):
    """Our network and theirs, with the same weights."""
    theirs = theirs_for(spec, **extra)
    ours = build_network(spec, attention="sdpa").eval()
    pieces, tensors = fused_pieces(ours.spec), dict(theirs.named_parameters())
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            parameter.copy_(whole(name, pieces, tensors, spec.padded_vocab_size))
    return ours, theirs


def check(spec, **extra):
    ours, theirs = pair(spec, **extra)
    ids = random_ids(3, spec.seq_length)
    labels = shifted(ids)
    expected = theirs(ids).logits
    torch.testing.assert_close(ours.logits(ids), expected, rtol=1e-5, atol=1e-5)

    sums, _ = ours(Batch.from_rows(ids, labels))
    loss = torch.nn.functional.cross_entropy(
        expected.flatten(0, 1), labels.flatten(), ignore_index=-100
    )
    count = (labels != -100).sum()
    torch.testing.assert_close(sums.loss_sum / count, loss, rtol=1e-5, atol=1e-5)
    assert sums.weight_sum == count
    (sums.loss_sum / count).backward()
    loss.backward()
    pieces = fused_pieces(ours.spec)
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(
            parameter.grad,
            whole(name, pieces, gradients, spec.padded_vocab_size),
            rtol=1e-5,
            atol=1e-5,
            msg=lambda text, name=name: f"{name}: {text}",
        )


@pytest.mark.covers(
    "MOD-02: MHA (kv = heads) and MQA (kv = 1)",
    "MOD-04: rotary position embedding (RoPE)",
    "MOD-06: SwiGLU feed-forward (gate/up/down)",
)
@pytest.mark.parametrize("tie_embeddings", [False, True])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_logits_and_gradients_equal_llama(num_kv_heads, tie_embeddings):
    check(tiny_spec(num_kv_heads=num_kv_heads, tie_embeddings=tie_embeddings))


@pytest.mark.covers("MOD-04: base/theta configurable")
def test_heads_may_be_wider_than_the_model():
    check(tiny_spec(head_dim=24, num_heads=2, num_kv_heads=1, rope_theta=5e5))


@pytest.mark.covers("MOD-04: length-extension scaling configurable")
@pytest.mark.parametrize("scaling", ["linear", "yarn"])
def test_extended_positions_equal_llama(scaling):
    check(
        tiny_spec(
            seq_length=48,
            rope_scaling=scaling,
            rope_factor=4.0,
            rope_original_length=12,
        )
    )


@pytest.mark.covers("MOD-07: QK-norm as an option")
def test_query_and_key_norm_equal_qwen3():
    check(tiny_spec(qk_norm="rms", norm_eps=1e-6))


@pytest.mark.covers("MOD-15: top-k routed SwiGLU experts")
@pytest.mark.parametrize("tie_embeddings", [False, True])
def test_logits_and_gradients_equal_mixtral(tie_embeddings):
    moe = MoeSpec(num_experts=4, top_k=2, intermediate_size=48, layers=(0, 1))
    check(tiny_spec(moe=moe, tie_embeddings=tie_embeddings))


@pytest.mark.covers("MOD-08: --window-size (none/0 = full)")
def test_windowed_logits_equal_mixtrals():
    moe = MoeSpec(num_experts=4, top_k=2, intermediate_size=48, layers=(0, 1))
    check(tiny_spec(moe=moe, window_size=6), sliding_window=6)
