"""The smallest device for a way of training, and an earlier estimator's constants."""

from __future__ import annotations

import json

import pytest

from lumina.cli.main import main
from lumina.config import Config
from lumina.errors import LuminaError
from lumina.plan.claimed_factors import FACTORS
from lumina.plan.costs.layout import Layout
from lumina.plan.count import count_exchanged
from lumina.plan.figures import layout_of
from lumina.plan.least_memory import MODES, least_memory, settings_of
from lumina.plan.memory import estimate
from machines import gpu, plan_for

GIB = 2**30


@pytest.mark.covers("MEM-24")
@pytest.mark.parametrize("preset", ["dense_1b", "dense_3b"])
def test_a_device_of_the_least_memory_is_admitted_and_a_smaller_one_is_not(
    preset: str,
) -> None:
    config = Config.resolve(preset=preset).replace(
        seq_length=2048, vocab_size=32_000, steps=10
    )
    host = {"host_memory_bytes": 2**40}
    found = least_memory(config, gpu(**host), 32_000)
    assert [one.mode for one in found] == list(MODES)
    for one in found:
        named = settings_of(config, one.mode)
        plan = plan_for(named, gpu(gib=1.001 * one.bound / GIB, **host))
        assert plan.memory["bound"] == one.bound
        with pytest.raises(LuminaError) as caught:
            plan_for(named, gpu(gib=0.995 * one.bound / GIB, **host))
        assert caught.value.code in ("E201", "E203")
    sizes = {one.mode: one.bound for one in found}
    assert sizes["adapters, base in 4 bits"] < sizes["adapters"] < sizes["all weights"]


@pytest.mark.covers("MEM-20", "MEM-22")
def test_constants_of_the_design_stand_beside_what_is_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shape = ["--preset", "dense_350m", "--vocab-size", "32000", "--seq-length", "1024"]
    shape += ["--hardware-profile", "h200", "--steps", "3", "--global-batch-size", "8"]
    assert main(["plan", *shape, "--claims", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    factors = {one["name"]: one for one in found["factors"]}
    claims = [0.25, 0.20, 1 / 8, 0.5, 0.8, 1 / 320]
    assert [one["claim"] for one in found["factors"]] == claims
    plan = plan_for(
        Config.resolve(preset="dense_350m").replace(
            vocab_size=32_000, seq_length=1024, steps=3, global_batch_size=8
        ),
        gpu(),
    )
    layout = layout_of(plan)

    def kept(mode: str) -> int:
        changed = Layout(**{**vars(layout), "gradient_checkpointing": mode})
        return estimate(plan.spec, changed)["activations"]

    selective = factors["activations, selective checkpointing"]["counted"]
    assert selective == pytest.approx(kept("selective") / kept("none"), rel=0.05)
    assert factors["keys and values, grouped queries"]["counted"] == 1
    paged = factors["keys and values, paged cache"]["counted"]
    assert paged == pytest.approx(0.5 + 128 / 1024, abs=0.001)
    sent = count_exchanged(plan.spec, (), 8)
    compressed = factors["gradients exchanged, PowerSGD"]["counted"]
    assert compressed == pytest.approx(sent.sent / sent.whole)
    assert 1 / 320 < compressed < 1 / 20
    attention = factors["activations, attention by a fused kernel"]["counted"]
    assert 0 < attention < 1
    tiers = {one["what"]: one["tier"] for one in found["gates"]}
    assert tiers["flash attention"] == 3 and tiers["DeepSpeed"] == 4
    assert tiers["paged cache"] == 8 and tiers["ring attention"] == 9
    assert len(FACTORS) == len(factors)


def test_the_least_memory_is_printed_for_presets(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--hardware-profile", "h200", "--seq-length", "512"]
    assert main(["plan", "--least", "dense_125m", *words]) == 0
    text = capsys.readouterr().out
    assert "one row of 512 tokens, 32,000 tokens" in text
    assert text.count("dense_125m") == len(MODES)


@pytest.mark.covers("MEM-19: --analyze-memory --sequence-length --batch-size")
def test_memory_is_analysed_by_the_flags_of_the_documents(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shape = ["plan", "--preset", "dense_125m", "--vocab-size", "32000", "--steps", "3"]
    shape += ["--hardware-profile", "h200", "--analyze-memory"]
    kept = []
    for length, rows in (("512", "1"), ("512", "4"), ("2048", "1")):
        asked = ["--sequence-length", length, "--batch-size", rows]
        asked += ["--global-batch-size", "4", "--json"]
        assert main([*shape, *asked]) == 0
        found = json.loads(capsys.readouterr().out)
        kept.append(found["memory"]["activations"])
    one, four, long = kept
    assert four == pytest.approx(4 * one, rel=0.01)
    assert long == pytest.approx(4 * one, rel=0.01)
    assert main([*shape, "--sequence-length", "512", "--batch-size", "1"]) == 0
    text = capsys.readouterr().out
    assert "activations" in text and "master weights" in text
    assert "Decisions" not in text and "Parameters" not in text
