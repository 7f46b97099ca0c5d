from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lumina.config import Config
from lumina.config.sections import LEAVES
from lumina.errors import LuminaError
from lumina.features import (
    FEATURES,
    Exclusion,
    active_features,
    check,
    check_features,
    requested_features,
)
from machines import cpu, gpu, plan_for

# One way to ask for each feature that can be asked for, and where it can be had.
ASKED: dict[str, dict[str, Any]] = {
    "gradient_checkpointing_full": {"gradient_checkpointing": "full"},
    "gradient_checkpointing_selective": {"gradient_checkpointing": "selective"},
    "compile": {"compile": True},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "tf32": {"precision": "tf32"},
    "ddp": {"parallel": "ddp"},
    "fsdp2": {"parallel": "fsdp2"},
    "flash_attention": {"attention": "flash2"},
    "deterministic": {"deterministic": True},
    "sliding_window": {"window_size": 64},
    "qk_norm": {"qk_norm": "rms"},
    "rope_scaling": {"rope_scaling": "yarn", "rope_factor": 2.0},
    "tied_embeddings": {"tie_embeddings": True},
    "moe_dropless": {"use_moe": True},
    "moe_capacity": {"use_moe": True, "moe_dispatch": "capacity"},
    "loss_free_bias": {"use_moe": True, "moe_bias_update_rate": 0.001},
    "shared_experts": {"use_moe": True, "moe_shared_experts": 1},
    "expert_dropout": {"use_moe": True, "expert_dropout": 0.1},
    "router_jitter": {"use_moe": True, "router_jitter_noise": 0.01},
    "named_expert": {"use_moe": True, "expert_id": "farm", "init_from": "base"},
    "mixture_of_depths": {"use_mod": True},
    "mixture_of_recursions": {"use_mor": True, "num_layers": 3},
    "hierarchical_reasoning": {"use_hrm": True, "hrm_mode": "language_model"},
    "latent_attention": {"mla_kv_rank": 32},
    "several_tasks": {"tasks": ("a=a.txt", "b=b.txt")},
    "dropout": {"dropout": 0.1},
    "ema": {"ema_decay": 0.99},
    "freeze": {"freeze": ["backbone.embedding.*"]},
}


def config(**options: Any) -> Config:
    return Config(vocab_size=64, steps=10, global_batch_size=8, **options)


@pytest.mark.parametrize("name", ASKED)
def test_a_feature_is_off_then_asked_for_then_in_the_plan(name: str) -> None:
    machine = gpu()
    feature = FEATURES[name]
    assert not feature.requested(config())
    wanted = config(**ASKED[name])
    assert name in requested_features(FEATURES, wanted)
    plan = plan_for(wanted, machine, world_size=2)
    assert name in active_features(FEATURES, plan)


def test_only_automatic_features_cannot_be_asked_for() -> None:
    assert set(FEATURES) - set(ASKED) == {"chunked_loss", "packing", "init_from"}
    assert FEATURES["init_from"].requested(config(init_from="runs/x"))


def test_logits_are_chunked_when_they_exceed_the_bound() -> None:
    few = plan_for(config(loss_chunk_bytes=2**16))
    assert "chunked_loss" in active_features(FEATURES, few)
    assert "chunked_loss" not in active_features(FEATURES, plan_for(config()))


@pytest.mark.parametrize(
    ("options", "machine", "words"),
    [
        ({"compile": True}, cpu(), "C++ compiler"),
        ({"precision": "fp16"}, cpu(), "5.3"),
        ({"precision": "tf32"}, gpu("Tesla T4", 15, (7, 5)), "has capability 7.5"),
        ({"precision": "bf16"}, gpu("Tesla T4", 15, (7, 5)), "8.0"),
    ],
)
def test_needs_that_are_not_met_are_refused_with_the_way_out(
    options: dict[str, Any], machine: Any, words: str
) -> None:
    with pytest.raises(LuminaError) as caught:
        check(config(**options), machine)
    assert caught.value.code == "E003"
    assert words in caught.value.message
    assert "--" in caught.value.hint


@pytest.mark.covers("CFG-13: E002")
def test_features_that_exclude_each_other_are_refused() -> None:
    exclusion = Exclusion("ema", "both move the weights", "a test", "use --ema-decay 0")
    features = FEATURES | {"bf16": replace(FEATURES["bf16"], excludes=(exclusion,))}
    check_features(features, ["bf16"], gpu())
    with pytest.raises(LuminaError) as caught:
        check_features(features, ["ema", "bf16"], gpu())
    assert caught.value.code == "E002"
    assert "both move the weights" in caught.value.message
    assert caught.value.hint == "use --ema-decay 0"


def test_declarations_are_whole() -> None:
    for name, feature in FEATURES.items():
        assert feature.name == name
        assert feature.option in LEAVES
        assert feature.observable
        for exclusion in feature.excludes:
            assert exclusion.feature in FEATURES
