from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lumina.config import Config
from lumina.model.declared import parameters
from lumina.plan.count import count_parameters
from lumina.plan.flops import flops_per_token
from lumina.plan.shape import resolve_spec


def test_the_dense_reference_work() -> None:
    """Llama-3.2-1B's shape, untied: 1.498 B parameters, 7.41e9 in products."""
    spec = resolve_spec(
        Config(
            vocab_size=128256,
            hidden_size=2048,
            num_layers=16,
            num_heads=32,
            num_kv_heads=8,
            intermediate_size=8192,
            seq_length=4096,
        )
    )
    assert count_parameters(spec).total == pytest.approx(1.498e9, rel=1e-3)
    attention = 6 * 16 * 2048 * 4096
    assert flops_per_token(spec) - attention == pytest.approx(7.41e9, rel=1e-3)


def test_the_routed_reference_work() -> None:
    """OLMoE's shape with 8 layers: 3.56 B, 0.64 B of them active without tables."""
    spec = resolve_spec(
        Config(
            vocab_size=50304,
            hidden_size=2048,
            num_layers=8,
            num_heads=16,
            seq_length=4096,
            use_moe=True,
            num_experts=64,
            moe_top_k=8,
            moe_intermediate_size=1024,
            qk_norm="rms",
        )
    )
    counts = count_parameters(spec)
    assert counts.total == pytest.approx(3.56e9, rel=1e-3)
    assert counts.active_non_embedding == pytest.approx(0.64e9, rel=5e-3)


def test_heads_wider_than_the_model_and_windows_count() -> None:
    shape = {"vocab_size": 64, "hidden_size": 128, "num_heads": 2, "seq_length": 256}
    spec = resolve_spec(Config(**shape, head_dim=128))
    products = 6 * count_parameters(spec).active_non_embedding
    assert flops_per_token(spec) - products == 6 * 2 * 256 * 256
    window = resolve_spec(Config(**shape, head_dim=128, window_size=64))
    looked_at = 64 - 64 * 64 / 512
    assert flops_per_token(window) - products == 12 * 2 * 256 * looked_at
    wide = resolve_spec(Config(**shape, head_dim=128, window_size=256))
    assert flops_per_token(wide) == flops_per_token(spec)


def test_narrow_values_of_latent_attention_count_as_narrow() -> None:
    shape = {"vocab_size": 64, "hidden_size": 128, "num_heads": 2, "seq_length": 256}
    spec = resolve_spec(Config(**shape, mla_kv_rank=32, mla_value_dim=16))
    products = 6 * count_parameters(spec).active_non_embedding
    keys, values = 2 * 64, 2 * 16
    assert flops_per_token(spec) - products == 3 * 2 * 256 * (keys + values)


def test_a_share_of_the_tokens_is_a_share_of_the_work() -> None:
    shape = {"vocab_size": 64, "hidden_size": 128, "num_heads": 2, "seq_length": 256}
    dense = resolve_spec(Config(**shape, num_layers=4))
    layers = 6.0 * sum(one.size for one in parameters(dense) if ".blocks." in one.name)
    attention = 6.0 * 4 * 128 * 256
    for capacity in (0.125, 0.5):
        mod = {"use_mod": True, "mod_pattern": "all", "mod_capacity_factor": capacity}
        spec = resolve_spec(Config(**shape, num_layers=4, **mod))
        routers = 6.0 * count_parameters(spec).router
        saved = (1 - capacity) * layers + (1 - capacity**2) * attention
        assert flops_per_token(spec) - routers == pytest.approx(
            flops_per_token(dense) - saved
        )
    # Two of four layers once more, by half of the tokens.
    mor = resolve_spec(Config(**shape, num_layers=4, use_mor=True))
    more = 0.5 * layers / 2 + 0.25 * attention / 2 + 6.0 * count_parameters(mor).router
    assert flops_per_token(mor) == pytest.approx(flops_per_token(dense) + more)
    # Keys of the first pass: queries meet all of them, and none are made again.
    shared = resolve_spec(
        Config(**shape, num_layers=4, use_mor=True, mor_kv_sharing=True)
    )
    met, made = 0.25 * attention / 2, 0.5 * 6.0 * 2 * (2 * 128 * 128)
    assert flops_per_token(shared) == pytest.approx(flops_per_token(mor) + met - made)


def test_token_choice_counts_the_places_there_are() -> None:
    """An even load times the capacity factor, at most all tokens."""
    shape = {"vocab_size": 64, "hidden_size": 128, "num_heads": 2, "seq_length": 256}

    def further(**leaves: Any) -> float:
        spec = resolve_spec(Config(**shape, num_layers=3, use_mor=True, **leaves))
        one = replace(spec, mor=None)
        routers = 6.0 * count_parameters(spec).router
        return flops_per_token(spec) - routers - flops_per_token(one)

    by_token = {"mor_routing": "token_choice", "mor_capacity_factor": 1.0}
    assert further(**by_token) == pytest.approx(further())
    block = further(mor_mode="static")
    by_token["mor_capacity_factor"] = 1.5
    assert 0.5 * block < further(**by_token) < 0.75 * block
    by_token["mor_capacity_factor"] = 9.0
    assert further(**by_token) == pytest.approx(block)


def test_frozen_weights_under_adapters_have_no_gradient_of_their_own() -> None:
    """Four operations for each of them, six for each parameter of the adapters."""
    shape = {"vocab_size": 64, "hidden_size": 64, "seq_length": 32}
    plain = resolve_spec(Config(**shape))
    spec = resolve_spec(Config(**shape, use_peft=True, init_from="base", lora_r=4))
    counts = count_parameters(spec)
    assert counts.adapters == counts.total - count_parameters(plain).total > 0
    frozen = count_parameters(plain).active_non_embedding
    expected = flops_per_token(plain) - 2 * frozen + 6 * counts.adapters
    assert flops_per_token(spec) == pytest.approx(expected)
