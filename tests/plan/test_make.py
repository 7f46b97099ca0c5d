from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from lumina.config import Config, ConfigPresets
from lumina.errors import LuminaError
from lumina.plan.costs.layout import Layout
from lumina.plan.count import count_parameters, trainable
from lumina.plan.hardware_profiles import find_profile
from lumina.plan.memory import estimate
from lumina.plan.plan import Plan
from lumina.plan.shape import resolve_spec
from lumina.quantities import count
from machines import cpu, gpu, plan_for


def small(**options: Any) -> Config:
    return Config(vocab_size=64, steps=10, **options)


@pytest.mark.parametrize("machine", [cpu(), gpu()], ids=["cpu", "gpu"])
def test_every_decision_has_a_reason(machine: Any) -> None:
    plan = plan_for(Config.resolve(preset="debug"), machine, world_size=2)
    told = {"spec", "memory", "features", "reasons", "warnings", "fallbacks"}
    for field in fields(Plan):
        if field.name not in told:
            assert plan.reasons.get(field.name), field.name


def test_a_plan_survives_json() -> None:
    import json

    plan = plan_for(Config.resolve(preset="debug", flags={"freeze": ["blocks.1.*"]}))
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_every_option_of_the_fit_reaches_the_plan() -> None:
    options = {
        "learning_rate": 2e-4,
        "weight_decay": 0.03,
        "beta1": 0.8,
        "beta2": 0.99,
        "eps": 1e-7,
        "max_grad_norm": 0.5,
        "ema_decay": 0.99,
        "freeze": ("backbone.embedding.*",),
        "seed": 7,
        "loss_chunk_bytes": 2**20,
        "deterministic": True,
        "save_total_limit": 9,
    }
    plan = plan_for(small(**options))
    for name, value in options.items():
        assert getattr(plan, name) == value
        assert "python" in plan.reasons[name]


def test_device_auto_and_by_name() -> None:
    assert plan_for(small(), gpu()).device == "cuda"
    assert plan_for(small(), cpu()).device == "cpu"
    assert plan_for(small(device="cpu"), gpu()).device == "cpu"
    with pytest.raises(LuminaError) as caught:
        plan_for(small(device="cuda"), cpu())
    assert caught.value.code == "E003"


@pytest.mark.covers("TRN-22: off on CPU by default")
def test_compile_on_cuda_with_a_compiler_only() -> None:
    bare = gpu(compiler=False, compiler_detail="triton missing")
    assert plan_for(small(), gpu()).compile is True
    assert plan_for(small(), cpu(compiler=True)).compile is False
    assert plan_for(small(compile=True), cpu(compiler=True)).compile is True
    assert plan_for(small(compile=False), gpu()).compile is False
    without = plan_for(small(), bare)
    assert (without.compile, without.reasons["compile"]) == (
        False,
        "needs triton and a C compiler (triton missing)",
    )
    with pytest.raises(LuminaError, match="triton missing") as caught:
        plan_for(small(compile=True), bare)
    assert caught.value.code == "E003"


@pytest.mark.covers("TRN-07: fallback to AdamW reported")
def test_what_has_no_small_moments_is_adamws_and_the_plan_says_so() -> None:
    plan = plan_for(small(optimizer="adamw_8bit"))
    sizes = {"adamw_8bit": 0, "adamw": 0}
    for tensor in trainable(plan.spec, ()):
        sizes["adamw" if tensor.role in ("norm", "bias") else "adamw_8bit"] += (
            tensor.size
        )
    for name, size in sizes.items():
        share = f"{name} trains {size / sum(sizes.values()):.1%} of the parameters"
        assert size and share in plan.reasons["optimizer_groups"]
    assert "and adamw the others" in plan.reasons["optimizer_groups"]
    assert not any("adamw_8bit" in text for text in plan.warnings)
    frozen = ("backbone.embedding.*", "*.attention.*", "*.feedforward.*", "head*")
    nothing = plan_for(small(optimizer="adamw_8bit", freeze=frozen))
    (told,) = [text for text in nothing.warnings if "adamw_8bit" in text]
    assert "trains nothing of this run: adamw trains all of it" in told
    assert not any("nothing" in w for w in plan_for(small(freeze=frozen)).warnings)


@pytest.mark.covers("TRN-22: off on MPS by default")
def test_blocks_are_not_compiled_on_an_apple_gpu_unless_that_is_asked_for() -> None:
    """Also by a torch that can build kernels for it."""
    apple = find_profile("m2")[1].machine(cpu())
    assert apple.device == "mps"
    plan = plan_for(small(), apple)
    assert (plan.device, plan.compile) == ("mps", False)
    assert plan.reasons["compile"] == "off on an Apple GPU unless asked for"
    with pytest.raises(LuminaError, match="Apple GPUs") as caught:
        plan_for(small(compile=True), apple)
    assert caught.value.code == "E003"
    able = replace(apple, compiler=True, compiler_detail="Metal")
    assert plan_for(small(), able).compile is False
    assert plan_for(small(compile=True), able).compile is True


def test_the_first_way_with_room_and_no_recomputation_before_less_communication():
    config = Config.resolve(preset="b7", flags={"seq_length": 4096})
    plans = [plan_for(config, gpu(gib=gib), world_size=8) for gib in (140, 48, 40)]
    found = [(plan.parallel, plan.gradient_checkpointing) for plan in plans]
    assert found == [("zero2", "none"), ("fsdp2", "none"), ("fsdp2", "selective")]


@pytest.mark.covers("DST-05")
def test_the_first_stage_of_zero_with_room_is_taken() -> None:
    """Where several micro-batches add up, stage 1 holds their gradients whole."""
    config = Config.resolve(
        preset="b7",
        flags={"seq_length": 4096, "zero_stage": "auto", "global_batch_size": 64},
    )
    plans = [plan_for(config, gpu(gib=gib), world_size=8) for gib in (140, 80, 44)]
    assert [plan.parallel for plan in plans] == ["zero1", "zero2", "fsdp2"]
    whys = [plan.reasons["parallel"] for plan in plans]
    for stage, why in enumerate(whys, start=1):
        assert why.startswith(f"stage {stage} of ZeRO has room in 9")
    assert [("a lower stage does not fit" in why) for why in whys] == [
        False,
        True,
        True,
    ]
    with pytest.raises(LuminaError, match="E20"):
        plan_for(config, gpu(gib=8), world_size=8)


@pytest.mark.covers("DST-03: fallback to standard optimizer with reason")
@pytest.mark.parametrize("stage", ["1", "2", "3", "auto"])
def test_a_stage_of_zero_in_one_process_shares_nothing_and_says_so(stage: str) -> None:
    plan = plan_for(small(zero_stage=stage))
    assert (plan.parallel, plan.optimizer) == ("none", "adamw")
    (told,) = [text for text in plan.warnings if "one process" in text]
    assert "nothing is shared" in told


def test_weights_of_16_bits_alone_and_stage_1_are_refused_before_a_start() -> None:
    kept = small(zero_stage=1, amp=False, model_dtype="bf16")
    with pytest.raises(LuminaError, match="model_dtype bfloat16 keeps none") as caught:
        plan_for(kept, gpu(), world_size=2)
    assert caught.value.code == "E002"
    early = small(zero_stage=1, optimizer_in_backward=True, max_grad_norm=0.0)
    with pytest.raises(LuminaError, match="optimizer_in_backward") as caught:
        plan_for(early, gpu(), world_size=2)
    assert caught.value.code == "E002"


def test_ddp_while_a_model_fits_then_shared_weights() -> None:
    config = Config.resolve(preset="l2:b1", flags={"seq_length": 512})
    roomy = plan_for(config, gpu(gib=140), world_size=8)
    tight = plan_for(config, gpu("NVIDIA L40S", 45, (8, 9)), world_size=8)
    assert (roomy.parallel, tight.parallel) == ("ddp", "zero2")
    assert tight.memory["optimizer"] == roomy.memory["optimizer"] // 8
    assert "does not fit" in tight.reasons["parallel"]
    asked = config.replace(parallel="fsdp2")
    assert plan_for(asked, gpu(gib=140), world_size=8).parallel == "fsdp2"


def test_one_process_shares_nothing_and_several_may_not_ignore_each_other() -> None:
    alone = plan_for(small(parallel="ddp"))
    assert alone.parallel == "none"
    assert any("nothing is shared" in text for text in alone.warnings)
    with pytest.raises(LuminaError, match="would train 2 models"):
        plan_for(small(parallel="none"), world_size=2)


def test_checkpointing_only_as_far_as_memory_needs_it() -> None:
    config = ConfigPresets.get("m120_speed").replace(seq_length=8192, compile=False)
    spec = resolve_spec(config)
    chosen = []
    for mode in ("none", "selective", "full"):
        layout = Layout(1, "bfloat16", grad_accum=256, gradient_checkpointing=mode)
        just_enough = estimate(spec, layout)["bound"] / 0.9 / 2**30 + 0.01
        plan = plan_for(config, gpu("a card", just_enough, (8, 0)))
        chosen.append(plan.gradient_checkpointing)
        assert plan.memory["bound"] <= 0.9 * just_enough * 2**30
    assert chosen == ["none", "selective", "full"]
    assert "selective does not" in plan.reasons["gradient_checkpointing"]
    forced = plan_for(config.replace(gradient_checkpointing="full"), gpu(gib=140))
    assert forced.gradient_checkpointing == "full"


@pytest.mark.covers("CFG-10: E201 GPU memory", "CFG-10: E202 host memory")
def test_what_cannot_fit_is_refused_with_numbers_and_a_way_out() -> None:
    config = Config.resolve(preset="l2:b7")
    with pytest.raises(LuminaError) as caught:
        plan_for(config, gpu())
    assert caught.value.code == "E201"
    assert "140.0 GiB" in caught.value.message
    assert "optimizer 188.2 GiB" in caught.value.message
    assert "devices with --parallel fsdp2" in caught.value.hint
    with pytest.raises(LuminaError) as caught:
        plan_for(config, cpu())
    assert caught.value.code == "E202"


@pytest.mark.covers("CFG-06: memory")
@pytest.mark.parametrize(("gib", "code", "fit"), [(35, "E201", 16), (70, "E203", 32)])
def test_experts_are_held_against_the_memory(gib: int, code: str, fit: int) -> None:
    """A message names what they take, and the number that does find room."""
    config = Config.resolve(preset="b1", flags={"num_experts": 64})
    machine = gpu("a card", gib, (8, 0))
    with pytest.raises(LuminaError) as caught:
        plan_for(config, machine)
    assert caught.value.code == code
    counts = count_parameters(resolve_spec(config))
    said = f"{count(counts.experts)} of its {count(counts.total)} parameters are those"
    assert f"{said} of 64 experts, of which a token uses 2" in caught.value.message
    assert f"--num-experts {fit} with --batch-size 1" in caught.value.hint
    taken = {"batch_size": 1, "global_batch_size": 1, "gradient_checkpointing": "full"}
    smaller = config.replace(**taken, num_experts=fit)
    assert plan_for(smaller, machine).memory["bound"] <= machine.memory_bytes
    with pytest.raises(LuminaError, match="E20"):
        plan_for(smaller.replace(num_experts=2 * fit), machine)
    # Those of given weights are given.
    with pytest.raises(LuminaError) as caught:
        plan_for(config.replace(init_from="weights"), machine)
    assert "--num-experts" not in (caught.value.hint or "")
    with pytest.raises(LuminaError) as caught:
        plan_for(Config.resolve(preset="dense_8b"), machine)
    assert "experts" not in caught.value.message + (caught.value.hint or "")


@pytest.mark.covers("CFG-05: batch memory")
def test_a_batch_too_large_for_the_device_names_the_one_that_fits() -> None:
    config = Config.resolve(preset="m70_memory", flags={"batch_size": 128})
    with pytest.raises(LuminaError) as caught:
        plan_for(config, gpu("a card", 12, (8, 0)))
    assert caught.value.code == "E201"
    assert "--batch-size 1" in caught.value.hint


def test_freeze_must_match_something_and_leave_something() -> None:
    plan = plan_for(small(freeze=["blocks.0.*"]))
    full = plan_for(small())
    assert plan.memory["optimizer"] < full.memory["optimizer"]
    with pytest.raises(LuminaError, match="no parameter") as caught:
        plan_for(small(freeze=["blocks.0.*", "blocks.7.*"]))
    assert caught.value.code == "E005"
    with pytest.raises(LuminaError, match="every parameter") as caught:
        plan_for(small(freeze=["*"]))
    assert caught.value.code == "E002"


def test_advice_of_the_configuration_is_passed_on() -> None:
    plan = plan_for(small(learning_rate=0.01, seq_length=300))
    assert any("learning_rate" in text for text in plan.warnings)
    assert any("power of two" in text for text in plan.warnings)


def test_the_same_arguments_give_the_same_plan() -> None:
    config = Config.resolve(preset="debug")
    assert plan_for(config) == plan_for(config)


@pytest.mark.covers("CFG-10: E203 optimizer memory")
@pytest.mark.parametrize(("gib", "other"), [(44, "adamw_bf16"), (39, "adamw_8bit")])
def test_states_that_do_not_fit_name_an_optimizer_whose_states_do(
    gib: int, other: str
) -> None:
    config = Config.resolve(preset="dense_3b")
    machine = gpu("a card", gib, (8, 0))
    with pytest.raises(LuminaError) as caught:
        plan_for(config, machine)
    assert caught.value.code == "E203"
    assert "without the states of adamw" in caught.value.message
    assert f"--optimizer {other}" in caught.value.hint
    taken = {"optimizer": other, "batch_size": 1, "global_batch_size": 1}
    plan = plan_for(config.replace(**taken, gradient_checkpointing="full"), machine)
    assert plan.memory["bound"] <= machine.memory_bytes


def test_states_that_every_rank_keeps_whole_are_not_divided() -> None:
    """Of a matrix, Adafactor keeps a row, which is divided, and a column."""
    config = small(optimizer="adafactor", parallel="fsdp2", global_batch_size=4)
    one, four = (plan_for(config, gpu(), world_size=ranks) for ranks in (1, 4))
    rows = columns = 0
    for tensor in trainable(one.spec, ()):
        *_, height, width = (1, *tensor.shape)
        if len(tensor.shape) == 1:
            rows += 4 * width
        else:
            rows += 4 * height
            columns += 4 * width * max(len(tensor.pieces), 1)
    assert one.memory["optimizer"] == rows + columns
    assert four.memory["optimizer"] == pytest.approx(rows / 4 + columns, abs=1)
