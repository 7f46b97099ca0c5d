"""Rules for kinds of device, on devices that are described and not present."""

from __future__ import annotations

import pytest

from lumina.config import Config, ConfigPresets
from lumina.config.presets import PRESETS
from lumina.errors import LuminaError
from lumina.plan.capabilities import capabilities, capability_facts
from lumina.plan.device_rules import RULES, rule_for
from lumina.plan.environment import Environment
from lumina.plan.tiers import TIERS, Tier, tier_advice
from machines import cpu, gpu, plan_for

APPLE = cpu(device="mps", device_name="Apple M2", compiler=False)
CARDS = {
    "Blackwell, data centre": gpu("NVIDIA B200", 178.3, (10, 0)),
    "Blackwell, workstation": gpu("NVIDIA GeForce RTX 5090", 31.8, (12, 0)),
    "Hopper": gpu("NVIDIA H100 80GB HBM3", 79.1, (9, 0)),
    "Ampere, data centre": gpu("NVIDIA A100-SXM4-80GB", 79.1, (8, 0)),
    "Ada": gpu("NVIDIA GeForce RTX 4090", 23.5, (8, 9)),
    "Ampere, workstation": gpu("NVIDIA GeForce RTX 3090", 23.6, (8, 6)),
    "Turing": gpu("Tesla T4", 14.5, (7, 5)),
    "Volta": gpu("Tesla V100-SXM2-16GB", 15.7, (7, 0)),
    "Pascal": gpu("Tesla P100-PCIE-16GB", 15.9, (6, 0)),
    "before Pascal": gpu("Tesla K80", 11.2, (3, 7)),
    "Apple GPU": APPLE,
    "processor": cpu(),
}
SUITED = {
    "Blackwell, data centre": ("mixed_bf16", "mixed_fp8"),
    "Hopper": ("mixed_bf16", "mixed_fp8"),
    "Ampere, data centre": ("mixed_bf16", "tf32"),
    "Ada": ("mixed_bf16",),
    "Ampere, workstation": ("mixed_bf16",),
    "Volta": ("mixed_fp16",),
    "Turing": ("mixed_fp16",),
    "Apple GPU": ("mixed_fp16", "fp32"),
    "processor": ("fp32",),
}


@pytest.mark.covers("PRC-07")
@pytest.mark.parametrize("kind", CARDS)
def test_each_device_has_its_rule_and_follows_it(kind: str) -> None:
    rule = rule_for(CARDS[kind])
    assert rule.name == kind
    wanted = SUITED.get(kind, ())
    assert rule.precisions[: len(wanted)] == wanted
    # What is suited works, and what is automatic is the best of it.
    for precision in rule.precisions:
        plan_for(Config(vocab_size=64, precision=precision), CARDS[kind])
    lines = {one.name: one for one in capabilities(CARDS[kind])}
    assert lines["auto"].says[0] == rule.automatic
    assert [line.name for line in lines.values() if line.section == "devices"] == [
        one.name for one in RULES
    ]
    assert [one.name for one in lines.values() if one.here][:1] == [kind]


@pytest.mark.covers("DIA-15")
@pytest.mark.parametrize(
    ("machine", "kernels"),
    [
        (CARDS["Hopper"], ["FlashAttention-2", "torch.compile", "float8 products"]),
        (CARDS["Ada"], ["FlashAttention-2", "torch.compile"]),
        (CARDS["Volta"], ["torch.compile"]),
        (APPLE, []),
    ],
)
def test_the_table_says_which_kernels_work(
    machine: Environment, kernels: list[str]
) -> None:
    works = [
        line.name
        for line in capabilities(machine)
        if line.section == "kernels" and line.here
    ]
    watched = (
        "torch.compile",
        "FlashAttention-2",
        "float8 products",
        "FlashAttention-3",
    )
    found = [one for one in works if one.startswith(watched)]
    assert [one.split(" (")[0] for one in found] == kernels
    facts = capability_facts(machine)
    missing = [line for line in facts["lines"] if line["section"] == "kernels"]
    assert all(line["here"] == (line["says"][1] == "works") for line in missing)


def test_a_package_that_is_found_adds_its_kernel() -> None:
    machine = gpu(flash3=True, flash3_detail="flash-attn-3 3.0")
    lines = {line.name: line for line in capabilities(machine)}
    assert lines["FlashAttention-3"].here
    assert not any(
        line.name.startswith("16 GiB") and line.here for line in lines.values()
    )


@pytest.mark.covers("TRN-34: MPS with automatic settings", "CFG-17: MPS")
def test_an_apple_gpu_is_planned_for_with_settings_of_its_own() -> None:
    plan = plan_for(Config(vocab_size=64, device="mps"), APPLE)
    assert (plan.device, plan.compute_dtype, plan.micro_batch_size) == (
        "mps",
        "float16",
        4,
    )
    assert plan.attention == "sdpa" and not plan.compile and plan.parallel == "none"
    assert plan.global_batch_size == plan_for(Config(vocab_size=64)).global_batch_size
    asked = plan_for(Config(vocab_size=64, device="mps", batch_size=8), APPLE)
    assert asked.micro_batch_size == 8
    for options, words in (
        ({"precision": "bf16"}, "Apple GPU"),
        ({"gradient_steps": ("noise",)}, "float64"),
        ({"compile": True}, "compiler"),
    ):
        with pytest.raises(LuminaError) as caught:
            plan_for(Config(vocab_size=64, device="mps", **options), APPLE)
        assert caught.value.code == "E003" and words in caught.value.message
    with pytest.raises(LuminaError, match="one process"):
        plan_for(Config(vocab_size=64, global_batch_size=4), APPLE, world_size=2)


@pytest.mark.covers("TRN-34: CPU")
def test_a_cpu_computes_in_float32_and_takes_rows_by_memory() -> None:
    plan = plan_for(Config(vocab_size=64, device="cpu"), gpu())
    assert (plan.device, plan.compute_dtype, plan.compile) == ("cpu", "float32", False)
    small = cpu(memory_bytes=950 * 2**20, host_memory_bytes=950 * 2**20)
    shape = {"preset": "debug", "global_batch_size": 32}
    wide, narrow = (plan_for(Config(**shape), one) for one in (cpu(), small))
    assert narrow.micro_batch_size < wide.micro_batch_size


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(LuminaError) as caught:
        plan_for(Config(vocab_size=64, device=device), cpu())
    assert caught.value.code == "E003" and device in caught.value.message


@pytest.mark.covers("TRN-34: --strict forbids fallback", "DOC-05: graceful fallbacks")
@pytest.mark.parametrize(
    ("options", "machine", "words"),
    [
        ({}, cpu(), "on the CPU"),
        ({"attention": "flash2"}, cpu(), "flash2"),
        ({"attention": "flash3"}, CARDS["Ampere, data centre"], "flash3"),
        ({}, gpu(compiler=False, compiler_detail="triton missing"), "compile"),
    ],
)
def test_strict_refuses_what_would_be_replaced(
    options: dict[str, object], machine: Environment, words: str
) -> None:
    base = {"vocab_size": 64, "precision": "auto", **options}
    plan = plan_for(Config(**base), machine)
    assert any(words in one for one in plan.fallbacks)
    with pytest.raises(LuminaError) as caught:
        plan_for(Config(**base, strict=True), machine)
    assert caught.value.code == "E003" and words in caught.value.message


def test_strict_refuses_nothing_that_was_named() -> None:
    for machine, options in ((gpu(), {}), (cpu(), {"device": "cpu"})):
        plan = plan_for(Config(vocab_size=64, strict=True, **options), machine)
        assert plan.fallbacks == ()


@pytest.mark.covers("PRC-08")
@pytest.mark.parametrize(
    ("machine", "given", "wanted"),
    [
        (CARDS["Turing"], (8, 2), (4, 4)),
        (CARDS["Turing"], (8, None), (4, 2)),
        (CARDS["Turing"], (3, 2), (3, 2)),
        (CARDS["Ada"], (8, 2), (8, 2)),
        (CARDS["Hopper"], (8, 2), (16, 1)),
        (CARDS["Hopper"], (8, 3), (8, 3)),
        (cpu(), (8, 2), (8, 2)),
    ],
)
def test_a_batch_is_adapted_to_memory_where_that_is_asked_for(
    machine: Environment, given: tuple[int, int | None], wanted: tuple[int, int]
) -> None:
    batch, accum = given
    base = {"vocab_size": 64, "batch_size": batch, "grad_accum": accum}
    as_given = plan_for(Config(**base), machine)
    plan = plan_for(Config(**base, adapt_to_memory=True), machine)
    assert as_given.micro_batch_size == batch
    assert (plan.micro_batch_size, plan.grad_accum) == wanted
    assert plan.global_batch_size == as_given.global_batch_size
    if wanted[0] != batch:
        assert "adapt_to_memory" in plan.reasons["micro_batch_size"]
    # Its precision follows the device, adapted or not.
    assert plan.compute_dtype == as_given.compute_dtype


@pytest.mark.covers("DIA-17")
def test_larger_machines_train_larger_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [tier.name for tier in TIERS]
    assert list(dict.fromkeys(names)) == [
        "budget",
        "professional",
        "enterprise",
        "research",
    ]
    monkeypatch.setattr(
        "lumina.plan.tiers.TIERS", (TIERS[0], Tier("enterprise", "h200", 1, ""))
    )
    some = {name: PRESETS[name] for name in ("debug", "b1", "dense_8b")}
    monkeypatch.setattr("lumina.config.presets.PRESETS", some)
    small, large = tier_advice(cpu())
    assert small.precision == "mixed_fp16" and large.precision == "mixed_bf16"
    assert (small.largest, large.largest) == ("b1", "dense_8b")
    assert 0 < small.parameters < large.parameters


def test_a_plan_says_what_would_suit_the_device_better() -> None:
    for options, told in (
        ({"precision": "fp32"}, True),
        ({"precision": "bf16"}, False),
    ):
        plan = plan_for(Config(vocab_size=64, **options), CARDS["Ada"])
        reason = plan.reasons["compute_dtype"]
        assert ("mixed_bf16, tf32 suits this device better (Ada)" in reason) is told


@pytest.mark.covers("PRE-06: T4", "PRE-06: MPS")
@pytest.mark.parametrize("name", ["Turing", "Apple GPU"])
def test_the_preset_for_routing_fits_a_t4_and_an_apple_gpu(name: str) -> None:
    """Planned for a described device: fp16, within the T4's 14.5 GiB, the Mac's 16."""
    machine = CARDS[name]
    preset = ConfigPresets.debug_200m().replace(device=machine.device)
    plan = plan_for(preset, machine)
    assert (plan.device, plan.compute_dtype) == (machine.device, "float16")
    assert plan.compile is (name == "Turing")
    assert len(plan.spec.mod.layers) == 13
    assert plan.micro_batch_size * plan.grad_accum == plan.global_batch_size
    assert plan.memory["bound"] < 0.9 * machine.memory_bytes
    recursive = Config(vocab_size=64, use_mor=True, num_layers=4, device="mps")
    assert plan_for(recursive, APPLE).spec.mor is not None


def test_puzzles_need_float64_which_apple_gpus_have_not() -> None:
    with pytest.raises(LuminaError, match=r"E003.*float64, which Apple GPUs do not"):
        plan_for(ConfigPresets.get("hrm_sudoku").replace(device="mps"), APPLE)
