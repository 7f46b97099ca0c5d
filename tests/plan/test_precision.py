from __future__ import annotations

import pytest

from lumina.config import Config
from lumina.errors import LuminaError
from lumina.plan.environment import Environment
from machines import cpu, gpu, plan_for

V100 = gpu("Tesla V100-SXM2-16GB", 16, (7, 0))
P100 = gpu("Tesla P100", 16, (6, 0))
K80 = gpu("Tesla K80", 12, (3, 7), compiler=False, compiler_detail="triton missing")
AMX = cpu(bf16=True, bf16_speedup=4.2, cpu_features=("amx_bf16", "avx512_bf16"))
FLOAT8 = [("mixed_fp8", "hybrid"), ("fp8_e4m3", "e4m3")]
SLOW_AMX = cpu(bf16=False, bf16_speedup=0.8, cpu_features=("amx_bf16",))


@pytest.mark.covers("PRC-06: V100 mixed_fp16", "PRC-06: else fp16", "PRC-01: auto")
@pytest.mark.parametrize(
    ("machine", "dtype", "why"),
    [
        pytest.param(
            *(gpu("NVIDIA H100 80GB HBM3", 80), "bfloat16", "9.0"),
            marks=pytest.mark.covers("PRC-06: H100"),
        ),
        pytest.param(
            *(gpu("NVIDIA A100-SXM4-40GB", 40, (8, 0)), "bfloat16", "8.0"),
            marks=pytest.mark.covers("PRC-06: A100"),
        ),
        (gpu("NVIDIA B200", 180, (10, 0)), "bfloat16", "10.0"),
        (gpu("NVIDIA GeForce RTX 5090", 32, (12, 0)), "bfloat16", "12.0"),
        (gpu("NVIDIA GeForce RTX 4090", 24, (8, 9)), "bfloat16", "8.9"),
        (gpu("NVIDIA GeForce RTX 3090", 24, (8, 6)), "bfloat16", "8.6"),
        (gpu("Tesla T4", 15, (7, 5)), "float16", "7.5"),
        (V100, "float16", "7.0"),
        (P100, "float16", "6.0"),
        (K80, "float32", "3.7"),
        (AMX, "bfloat16", "4.20x"),
        (SLOW_AMX, "float32", "0.80x"),
        (cpu(bf16_speedup=1.05, cpu_features=("avx512_bf16",)), "float32", "1.05x"),
        (cpu(), "float32", "no bfloat16 instructions"),
    ],
)
def test_auto_takes_what_the_device_is_good_at(
    machine: Environment, dtype: str, why: str
) -> None:
    plan = plan_for(Config(vocab_size=64), machine)
    assert plan.compute_dtype == dtype
    assert why in plan.reasons["compute_dtype"]
    assert plan.tf32 is False


@pytest.mark.covers(
    "PRC-09: tf32/bf16 need 8.0",
    "PRC-09: fp16 5.3",
    "PRC-09: E003",
    "CFG-05: precision/hardware",
    "CFG-08: E003 hardware",
)
@pytest.mark.parametrize(
    ("precision", "machine", "number"),
    [
        ("bf16", V100, "8.0"),
        ("mixed_bf16", V100, "8.0"),
        ("tf32", V100, "8.0"),
        ("fp16", K80, "5.3"),
        ("mixed_fp16", cpu(), "5.3"),
        ("tf32", cpu(), "8.0"),
        pytest.param(
            *("mixed_fp8", gpu("NVIDIA GeForce RTX 4090", 24, (8, 9)), "9.0"),
            marks=pytest.mark.covers("PRC-09: fp8 9.0"),
        ),
        ("fp8_e4m3", V100, "9.0"),
        ("fp8_e5m2", gpu(), "mixed_fp8"),
        ("fp64", gpu(), "float32"),
    ],
)
def test_a_precision_the_device_lacks_is_refused(
    precision: str, machine: Environment, number: str
) -> None:
    with pytest.raises(LuminaError) as caught:
        plan_for(Config(vocab_size=64, precision=precision), machine)
    assert caught.value.code == "E003"
    assert number in caught.value.message
    assert "--precision" in caught.value.hint


@pytest.mark.covers("PRC-01: mixed_fp16", "PRC-01: mixed_bf16")
@pytest.mark.parametrize(
    ("precision", "dtype", "tf32"),
    [
        ("fp32", "float32", False),
        pytest.param(
            *("tf32", "float32", True),
            marks=pytest.mark.covers("PRC-02: tf32", "KRN-22: TF32"),
        ),
        ("bf16", "bfloat16", False),
        ("mixed_bf16", "bfloat16", False),
        ("fp16", "float16", False),
        ("mixed_fp16", "float16", False),
    ],
)
def test_a_precision_asked_for_is_taken(precision: str, dtype: str, tf32: bool) -> None:
    plan = plan_for(Config(vocab_size=64, precision=precision), gpu())
    assert (plan.compute_dtype, plan.tf32) == (dtype, tf32)
    assert "asked for" in plan.reasons["compute_dtype"]


@pytest.mark.parametrize(("precision", "fp8"), FLOAT8)
def test_float8_is_a_way_to_multiply_beside_bfloat16(precision: str, fp8: str) -> None:
    plan = plan_for(Config(vocab_size=64, precision=precision), gpu())
    assert (plan.compute_dtype, plan.fp8) == ("bfloat16", fp8)
    # It saves no memory that could be promised: weights and states stay as they are.
    plain = plan_for(Config(vocab_size=64, precision="mixed_bf16"), gpu())
    assert plan.memory == plain.memory


def test_a_type_that_fails_its_pretest_gives_way() -> None:
    machine = gpu(failed_pretests={"bf16": "wrong sums"})
    plan = plan_for(Config(vocab_size=64), machine)
    assert plan.compute_dtype == "float16"
    assert "wrong sums" in plan.reasons["compute_dtype"]


@pytest.mark.parametrize("value", ["bf16", "fp16"])
def test_weights_of_16_bits_take_the_room_of_one_copy(value: str) -> None:
    shape = {"vocab_size": 64, "preset": "b1", "batch_size": 1, "grad_accum": 1}
    mixed = plan_for(Config(**shape, precision=value), gpu())
    plan = plan_for(Config(**shape, amp=False, model_dtype=value), gpu())
    assert (plan.weights_dtype, plan.compute_dtype) == (mixed.compute_dtype,) * 2
    assert plan.memory["weights"] == pytest.approx(2 * plan.parameters, rel=1e-3)
    assert mixed.memory["master_weights"] == pytest.approx(
        4 * plan.parameters, rel=1e-3
    )
    assert plan.memory["master_weights"] < 0.1 * mixed.memory["master_weights"]


def test_several_processes_keep_float32_weights() -> None:
    config = Config(vocab_size=64, model_dtype="bf16", global_batch_size=2)
    with pytest.raises(LuminaError) as caught:
        plan_for(config, gpu(), world_size=2)
    assert caught.value.code == "E002" and "model_dtype" in caught.value.message


def test_bfloat16_on_a_processor_without_it_works_with_a_warning() -> None:
    plan = plan_for(Config(vocab_size=64, precision="bf16"), cpu())
    assert plan.compute_dtype == "bfloat16"
    assert any("not clearly faster" in text for text in plan.warnings)
    assert not plan_for(Config(vocab_size=64, precision="bf16"), AMX).warnings
