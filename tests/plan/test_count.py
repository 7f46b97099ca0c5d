from __future__ import annotations

import math

import pytest

from lumina.config import Config, ConfigPresets
from lumina.errors import LuminaError
from lumina.model.build import build_network
from lumina.model.declared import parameters
from lumina.plan.count import count_parameters, count_trainable
from lumina.plan.shape import resolve_spec

SMALL = {"vocab_size": 1000, "hidden_size": 96, "num_heads": 6, "num_layers": 3}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tie_embeddings": True, "num_kv_heads": 2},
        {"head_dim": 32, "intermediate_size": 100},
        {"qk_norm": "rms", "num_kv_heads": 3},
        {"qk_norm": "l2", "num_kv_heads": 3},
        {"qk_norm": "rms_full", "num_kv_heads": 3},
        {"attention_bias": True, "num_kv_heads": 2},
        {"pos_encodings": "learned", "tie_embeddings": True},
        {"pos_encodings": "sinusoidal", "use_stable_embedding": True},
        {"pos_encodings": "none", "use_stable_embedding": True, "use_mod": True},
        {"mla_kv_rank": 40},
        {"mla_kv_rank": 40, "mla_q_rank": 24, "mla_rope_dim": 4, "mla_value_dim": 10},
        {"use_moe": True, "num_experts": 4, "moe_intermediate_size": 40},
        {"use_moe": True, "moe_pattern": "sandwich", "moe_bias_update_rate": 0.1},
        {"use_moe": True, "moe_pattern": "interleaved", "tie_embeddings": True},
        {"use_mod": True, "use_mor": True, "mor_recursions": 3},
        {"use_mor": True, "mor_recursions": 3, "mor_routing": "token_choice"},
        {"use_mod": True, "mod_mode": "static", "mod_pattern": "all"},
        {"use_mod": True, "mod_routing_strategy": "fixed", "use_moe": True},
        {"tasks": ("a=x", "b=y", "c=z")},
    ],
)
def test_every_parameter_has_the_shape_the_formula_gives(options: dict) -> None:
    spec = resolve_spec(Config(**SMALL, **options))
    network = build_network(spec, device="meta")
    built = {name: tuple(p.shape) for name, p in network.named_parameters()}
    assert built == {one.name: one.shape for one in parameters(spec)}
    assert count_parameters(spec).total == sum(map(math.prod, built.values()))


@pytest.mark.covers("PRE-11: constructible as meta models for estimation")
@pytest.mark.parametrize("name", ConfigPresets.names())
def test_every_preset_is_built_on_the_meta_device_and_counted(name: str) -> None:
    spec = resolve_spec(ConfigPresets.get(name))
    counts = count_parameters(spec)
    network = build_network(spec, device="meta")
    assert counts.total == sum(p.numel() for p in network.parameters())
    assert counts.active <= counts.total


@pytest.mark.parametrize(
    ("name", "active"),
    [("b30", 30e9), ("l2:b50", 50e9), ("l2:b100", 100e9), ("l2:b300", 300e9)],
)
def test_the_second_documents_sizes_are_met(name: str, active: float) -> None:
    counts = count_parameters(resolve_spec(ConfigPresets.get(name)))
    assert counts.active == pytest.approx(active, rel=0.05)


def test_kinds_add_up_and_active_experts_are_a_share() -> None:
    spec = resolve_spec(
        Config(**SMALL, use_moe=True, num_experts=8, moe_top_k=2, moe_pattern="all")
    )
    counts = count_parameters(spec)
    kinds = (
        counts.embedding,
        counts.head,
        counts.experts,
        counts.router,
        counts.attention,
        counts.feedforward,
        counts.norms,
    )
    assert sum(kinds) == counts.total
    assert counts.active_experts * 4 == counts.experts
    assert counts.active_expert_share == 0.25
    assert counts.active == counts.total - counts.experts * 3 // 4
    assert counts.feedforward == 0


def test_a_tied_head_is_stored_once_and_multiplies_a_token() -> None:
    tied = count_parameters(resolve_spec(Config(**SMALL, tie_embeddings=True)))
    apart = count_parameters(resolve_spec(Config(**SMALL, tie_embeddings=False)))
    assert apart.total - tied.total == 1024 * 96 == apart.head
    assert tied.head == 0
    assert tied.active_non_embedding == apart.active_non_embedding


@pytest.mark.parametrize(
    ("patterns", "frozen"),
    [
        (["backbone.embedding.*"], 1024 * 96),
        (["blocks.0.*"], None),
        (["blocks.1.attention.[qkv].weight"], 96 * 96 * 3),
    ],
)
def test_what_freeze_leaves_to_train(patterns: list[str], frozen: int | None) -> None:
    spec = resolve_spec(Config(**SMALL))
    counts = count_parameters(spec)
    if frozen is None:
        frozen = sum(one.size for one in parameters(spec) if ".blocks.0." in one.name)
    assert count_trainable(spec, patterns) == counts.total - frozen


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("nothing.like.this", "matches no parameter"),
        ("blocks.1.attention.q.weight", "share one matrix"),
    ],
)
def test_what_freeze_cannot_hold_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(LuminaError, match=message):
        count_trainable(resolve_spec(Config(**SMALL)), [pattern])
