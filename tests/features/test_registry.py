"""Features: asked for, in the plan, refused, and given up with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lumina.config import Config
from lumina.config.sections import LEAVES
from lumina.errors import LuminaError
from lumina.features import (
    FEATURES,
    Choice,
    Exclusion,
    Feature,
    active_features,
    register,
    requested_features,
    resolved,
)
from lumina.plan.memory import COMPONENTS, Layout
from machines import cpu, gpu, plan_for

# One way to ask for each feature that can be asked for, and where it can be had.
ASKED: dict[str, dict[str, Any]] = {
    "adapters": {"use_peft": True, "init_from": "runs/x"},
    "adalora": {"use_peft": True, "init_from": "runs/x", "peft_method": "adalora"},
    "gradient_checkpointing_full": {"gradient_checkpointing": "full"},
    "gradient_checkpointing_selective": {"gradient_checkpointing": "selective"},
    "gradient_checkpointing_attention": {"gradient_checkpointing": "attention"},
    "gradient_checkpointing_feedforward": {"gradient_checkpointing": "feedforward"},
    "gradient_checkpointing_except_attention": {
        "gradient_checkpointing": "except_attention"
    },
    "gradient_checkpointing_sqrt": {"gradient_checkpointing": "sqrt"},
    "gradient_checkpointing_budget": {"gradient_checkpointing": "budget"},
    "activations_host": {"activations_in": "host"},
    "activations_disk": {"activations_in": "disk"},
    "activation_bits": {"activation_bits": 8},
    "coded_inputs": {"activation_bits": 8, "gradient_checkpointing": "full"},
    "coded_activations": {"activation_bits": 4},
    "tiled_feedforward": {"feedforward_tile": 64},
    "compile": {"compile": True},
    "base_storage": {"use_peft": True, "init_from": "runs/x", "load_in_4bit": True},
    "rounded_training": {"quantization_method": "quanto"},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "tf32": {"precision": "tf32"},
    "fp8": {"precision": "mixed_fp8"},
    "context_parallel": {"context_parallel": 2},
    "ddp": {"parallel": "ddp"},
    "gradient_compression": {"gradient_compression": "powersgd"},
    "zero1": {"parallel": "zero1"},
    "zero2": {"parallel": "zero2"},
    "fsdp2": {"parallel": "fsdp2"},
    "independent": {"parallel": "independent"},
    "flash_attention": {"attention": "flash2"},
    "deterministic": {"deterministic": True},
    "preserve_base_knowledge": {"preserve_base_knowledge": True},
    "preserve_base_outputs": {
        "preserve_base_knowledge": True, "preservation_method": "outputs",
        "sources": ("base=a.txt", "chat=b.jsonl"),
    },
    "swa": {"swa_start": 0.5},
    "lookahead": {"lookahead_steps": 5},
    "sliding_window": {"window_size": 64},
    "attention_beyond_window": {"window_size": 64, "attention_sinks": 4},
    "chunked_training": {"use_chunked_training": True, "chunk_size": 64},
    "chunk_offload": {"use_chunked_training": True, "chunk_size": 64,
                      "chunk_offload": True},
    "blockwise_attention": {"attention": "blockwise"},
    "qk_norm": {"qk_norm": "rms"},
    "attention_bias": {"attention_bias": True},
    "block_style": {"block_style": "phi"},
    "qk_clip": {"qk_clip": 100.0},
    "rope_scaling": {"rope_scaling": "yarn", "rope_factor": 2.0},
    "other_positions": {"pos_encodings": "learned"},
    "scaled_embeddings": {"scale_embeddings": True},
    "stable_embedding": {"use_stable_embedding": True},
    "tied_embeddings": {"tie_embeddings": True},
    "mixture_of_experts": {"use_moe": True},
    "moe_dropless": {"use_moe": True},
    "moe_capacity": {"use_moe": True, "moe_dispatch": "capacity"},
    "expert_groups": {"use_moe": True, "num_experts": 8, "moe_groups": 2,
                      "moe_top_groups": 2},
    "loss_free_bias": {"use_moe": True, "moe_bias_update_rate": 0.001},
    "shared_experts": {"use_moe": True, "moe_shared_experts": 1},
    "expert_dropout": {"use_moe": True, "expert_dropout": 0.1},
    "router_jitter": {"use_moe": True, "router_jitter_noise": 0.01},
    "named_expert": {"use_moe": True, "expert_id": "farm", "init_from": "base"},
    "expert_parallelism": {"use_moe": True, "num_experts": 8,
                           "expert_parallel_size": "2"},
    "mixture_of_depths": {"use_mod": True},
    "mixture_of_recursions": {"use_mor": True, "num_layers": 3},
    "shared_keys": {"use_mor": True, "num_layers": 3, "mor_kv_sharing": True},
    "hierarchical_reasoning": {"use_hrm": True, "hrm_mode": "language_model"},
    "puzzles": {"use_hrm": True, "hrm_mode": "puzzle"},
    "latent_attention": {"mla_kv_rank": 32},
    "several_tasks": {"tasks": ("a=a.txt", "b=b.txt")},
    "dropout": {"dropout": 0.1},
    "ema": {"ema_decay": 0.99},
    "freeze": {"freeze": ["backbone.embedding.*"]},
    "optimizer_states_host": {"optimizer_states_in": "host"},
    "embedding_host": {"embedding_in": "host", "use_peft": True, "init_from": "base"},
    "weights_host": {"weights_in": "host", "use_peft": True, "init_from": "base"},
    "weights_disk": {"weights_in": "disk", "use_peft": True, "init_from": "base"},
    "optimizer_states_disk": {"optimizer_states_in": "disk"},
    "flash_attention_3": {"experimental_fa3": True},
    "prefetch": {"prefetch_threads": 2},
    "fused_kernels": {"triton_kernels": True},
    "blackwell_tuning": {"experimental_blackwell_tuning": True},
    "fp8_experts": {"use_moe": True, "precision": "mixed_fp8", "fp8_experts": True},
    "cuda_graphs": {"experimental_cuda_graphs": True},
    "cudnn_benchmark": {"cudnn_benchmark": True},
    "static_routing": {"use_mod": True, "static_routing_mode": True},
    "adamw_8bit": {"optimizer": "adamw_8bit"},
    "adamw_4bit": {"optimizer": "adamw_4bit"},
    "adamw_bf16": {"optimizer": "adamw_bf16"},
    "optimizer_in_backward": {"optimizer_in_backward": True, "max_grad_norm": 0.0},
}  # fmt: skip
ALONE = {"optimizer_in_backward", "cuda_graphs"}
"""Features of runs of one process."""
NEWER = {"blackwell_tuning": {"capability": (10, 0)}}
BY_OTHERS = {
    "chunked_loss", "init_from", "registered_block", "registered_attention",
    "registered_feedforward", "registered_backbone", "registered_objective",
}  # fmt: skip
"""Features that a Plan of these tests cannot have by an option alone."""


def config(**options: Any) -> Config:
    return Config(vocab_size=64, steps=10, global_batch_size=8, **options)


@pytest.fixture
def registered() -> Iterator[list[Feature]]:
    """Registers features for one test."""
    before = dict(FEATURES)
    yield []
    FEATURES.clear()
    FEATURES.update(before)


def toy(name: str = "toy", **declared: Any) -> Feature:
    return register(Feature(name=name, summary="for a test", **declared))


@pytest.mark.parametrize("name", ASKED)
def test_a_feature_is_off_then_asked_for_then_in_the_plan(name: str) -> None:
    machine = gpu(flash3=True, **NEWER.get(name, {}))
    feature = FEATURES[name]
    assert not feature.is_requested(config())
    wanted = config(**ASKED[name])
    assert name in requested_features(FEATURES, wanted)
    assert not feature.is_refused(wanted)
    plan = plan_for(wanted, machine, world_size=1 if name in ALONE else 2)
    assert name in active_features(FEATURES, plan)


def test_the_other_features_come_with_weights_data_or_plug_ins() -> None:
    assert set(FEATURES) - set(ASKED) == BY_OTHERS
    assert FEATURES["init_from"].is_requested(config(init_from="runs/x"))


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
        plan_for(config(**options), machine)
    assert caught.value.code == "E003"
    assert words in caught.value.message
    assert "--" in caught.value.hint


def _pairs() -> list[tuple[str, str]]:
    return [
        (name, exclusion.feature)
        for name, feature in FEATURES.items()
        for exclusion in feature.excludes
        if {name, exclusion.feature} <= set(ASKED)
    ]


@pytest.mark.covers("CFG-13: E002")
@pytest.mark.parametrize(("one", "other"), _pairs())
def test_features_that_exclude_each_other_are_refused(one: str, other: str) -> None:
    asked = ASKED[one] | ASKED[other]
    if one == "shared_keys":
        asked |= {"use_mod": True}
    with pytest.raises(LuminaError) as caught:
        config(**asked)
    assert caught.value.code == "E002"
    reasons = {x.reason for x in FEATURES[one].excludes if x.feature == other}
    told = caught.value.message
    assert any(reason in told for reason in reasons), told
    assert str(FEATURES[one].option) in told and str(FEATURES[other].option) in told
    assert caught.value.hint


def test_declarations_are_whole() -> None:
    for name, feature in FEATURES.items():
        assert feature.name == name and feature.summary
        assert feature.option in LEAVES
        for exclusion in feature.excludes:
            assert exclusion.feature in FEATURES and exclusion.reason
        if feature.change_cost == "reassemble":
            assert feature.can_switch_on or feature.has_fallback, name
        for function in (feature.build, feature.pretest):
            assert function is None or callable(resolved(function))
        if feature.memory is not None:
            spec = plan_for(config()).spec
            assert set(feature.memory(spec, Layout(1))) <= set(COMPONENTS)


def test_a_feature_without_an_option_is_switched_by_name(registered: Any) -> None:
    toy()
    assert plan_for(config()).features == ()
    plan = plan_for(config(features=("toy",)))
    assert plan.features == ("toy",)
    assert plan.feature_reasons()["toy"] == (True, "python")
    assert type(plan).from_dict(plan.to_dict()).features == ("toy",)
    for wrong, code in (
        ({"features": ("tyo",)}, "E005"),
        ({"features": ("toy",), "no_features": ("toy",)}, "E002"),
        ({"features": ("compile",)}, "E002"),
    ):
        with pytest.raises(LuminaError) as caught:
            plan_for(config(**wrong))
        assert caught.value.code == code
    with pytest.raises(LuminaError, match=r"(?s)E002.*--no-compile"):
        plan_for(config(no_features=("compile",)))


def test_a_feature_that_chooses_itself_gives_way_with_a_reason(registered: Any) -> None:
    def needs(machine: Any) -> str | None:
        return None if machine.cores >= 2 else "needs two cores"

    toy(automatic=lambda plan, machine: Choice(True, "it is quicker"), needs=needs)
    plan = plan_for(config())
    assert plan.feature_reasons() == {"toy": (True, "it is quicker")}
    weak = plan_for(config(), cpu(cores=1))
    assert weak.features == ()
    assert weak.reasons["features.toy"] == "needs two cores"
    assert "toy is left out: it needs two cores" in weak.warnings
    off = plan_for(config(no_features=("toy",)))
    assert off.features == () and off.reasons["features.toy"] == "python"
    with pytest.raises(LuminaError, match=r"E003.*toy needs two cores"):
        plan_for(config(features=("toy",)), cpu(cores=1))
    failed = cpu(failed_pretests={"toy": "wrong sums"})
    assert "fails its pretest" in plan_for(config(), failed).reasons["features.toy"]
    with pytest.raises(LuminaError, match=r"E003.*wrong sums"):
        plan_for(config(features=("toy",)), failed)


def test_of_two_that_exclude_each_other_the_automatic_one_gives_way(
    registered: Any,
) -> None:
    toy(excludes=(Exclusion("compile", "it changes as it runs"),))
    plan = plan_for(config(features=("toy",)), gpu())
    assert plan.features == ("toy",) and not plan.compile
    assert "does not go together with toy: it changes" in plan.reasons["compile"]
    with pytest.raises(LuminaError, match=r"E002.*feature toy and compile"):
        config(features=("toy",), compile=True)
    eager = toy("eager", excludes=(Exclusion("flash_attention", "it needs a mask"),))
    assert eager.way_out == "--no-features eager"
    plan = plan_for(config(features=("eager",)), gpu())
    assert plan.attention == "sdpa"
    assert "eager" in plan.reasons["attention"]


def test_a_choice_of_the_plan_that_fails_its_pretest_falls_back() -> None:
    broken = gpu(failed_pretests={"bf16": "wrong products"})
    plan = plan_for(config(), broken)
    assert plan.compute_dtype == "float16"
    weak = gpu(failed_pretests={"compile": "no shared memory"})
    plan = plan_for(config(), weak)
    assert not plan.compile and "no shared memory" in plan.reasons["compile"]
    eager = gpu(failed_pretests={"flash_attention": "wrong sums"})
    plan = plan_for(config(), eager)
    assert plan.attention == "sdpa" and "wrong sums" in plan.reasons["attention"]
    with pytest.raises(LuminaError, match="E003"):
        plan_for(config(attention="flash2"), eager)


def test_the_planner_counts_what_a_feature_takes(registered: Any) -> None:
    def memory(spec: Any, layout: Layout) -> dict[str, int]:
        return {"activations": 2**20 * layout.micro_batch_size, "optimizer": -(2**40)}

    toy(memory=memory)
    plain = plan_for(config())
    plan = plan_for(config(features=("toy",)))
    more = 2**20 * plan.micro_batch_size
    assert plan.memory["activations"] - plain.memory["activations"] == more
    assert plan.memory["optimizer"] == 0  # not below nothing
    toy("huge", memory=lambda spec, layout: {"working": 2**40})
    with pytest.raises(LuminaError, match="E202"):
        plan_for(config(features=("huge",)))


def test_two_features_of_one_name_are_refused(registered: Any) -> None:
    toy()
    toy()  # the same file, run again
    with pytest.raises(LuminaError, match=r"E005.*two features"):
        toy(change_cost="restart")
