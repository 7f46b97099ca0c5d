"""The first document's preset table, row by row, as the command gives it back."""

from __future__ import annotations

import json

import pytest

from lumina.cli.main import main
from preset_tables import L1, L1_BF16, L1_WORDS, L2_NOTES, L2_WORDS

FIELDS = (
    "hidden_size", "num_layers", "num_heads", "num_kv_heads", "seq_length",
    "num_experts",
)  # fmt: skip


def values_of(name, capsys):
    assert main(["presets", name, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    return row if isinstance(row, dict) else row[0]


def built(name):
    """Parameters of the network that the preset builds, without memory for them."""
    from lumina.config import Config
    from lumina.model.build import build_network
    from lumina.plan.shape import resolve_spec

    network = build_network(resolve_spec(Config(preset=name)), device="meta")
    return sum(p.numel() for p in network.parameters())


def counted(name):
    """Parameters by arithmetic, which other tests hold against `built`."""
    from lumina.config import Config
    from lumina.plan.count import count_parameters
    from lumina.plan.shape import resolve_spec

    return count_parameters(resolve_spec(Config(preset=name))).total


def check(names, capsys):
    for name in names:
        row = values_of(name, capsys)
        assert tuple(row["values"][field] for field in FIELDS) == L1[name], name
        assert row["total"] == built(name) > row["active"] > 0


@pytest.mark.covers(
    "PRE-01: hidden, layers, heads, KV, context, experts",
    "PRE-01: every row available by name",
)
def test_every_row_of_the_table_is_there_by_name(capsys):
    check(L1, capsys)


@pytest.mark.covers(
    "PRE-03: 128/2/2/1, context 256, 4 experts (L1)", "PRE-04", "PRE-05"
)
def test_the_small_presets(capsys):
    check(("debug", "m70_memory", "m120_speed"), capsys)


@pytest.mark.covers(
    "PRE-07: 1024/12/16/4, 2048, 8 experts (L1)",
    "PRE-07: ~1B active (L2)",
    "PRE-08",
    "PRE-09",
)
def test_the_presets_of_one_to_fourteen_billion(capsys):
    check(("b1", "b3_inference", "b6_quality", "b7", "b14"), capsys)
    assert values_of("l2:b1", capsys)["active"] == pytest.approx(1e9, rel=0.05)


@pytest.mark.covers("PRE-01: params, use", "PRE-02: active, total, use")
def test_the_documented_size_and_use_are_those_of_the_tables(capsys):
    assert main(["presets", "--json"]) == 0
    facts = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert main(["presets"]) == 0
    listed = capsys.readouterr().out.splitlines()
    for name, (documented, use) in (L1_WORDS | L2_WORDS).items():
        assert (facts[name]["documented"], facts[name]["use"]) == (documented, use)
        (line,) = (x for x in listed if x.split()[:1] in ([name], [f"{name}*"]))
        assert line.endswith(f" {use}"), name


@pytest.mark.covers("PRE-01: BF16 memory")
def test_the_memory_of_the_weights_stands_beside_the_documented_one(capsys):
    from lumina.quantities import byte_size

    assert main(["presets"]) == 0
    listed = capsys.readouterr().out.splitlines()
    for name, documented in L1_BF16.items():
        true = 2 * counted(name)
        facts = values_of(name, capsys)
        assert (facts["bf16_bytes"], facts["documented_bf16"]) == (true, documented)
        assert main(["presets", name]) == 0
        line = f"weights     {byte_size(true)} in bf16 (documented: {documented})\n"
        assert line in capsys.readouterr().out
        assert byte_size(true) in next(x for x in listed if x.startswith(f"{name} "))


@pytest.mark.covers("PRE-02: hardware, adaptive notes")
def test_documented_hardware_is_named_and_held_against_the_memory_that_is_needed(
    capsys,
):
    from lumina.plan.hardware_profiles import PROFILES

    for name, (hardware, adaptive) in L2_NOTES.items():
        facts = values_of(name, capsys)
        assert (facts["hardware"], facts["adaptive"]) == (hardware, adaptive)
        assert main(["presets", name]) == 0
        shown = capsys.readouterr().out
        assert f"hardware    {hardware} (L2)\n" in shown
        assert f"adaptive    {adaptive} (L2); --adaptive is the same" in shown
        # Weights, master weights and both moments of AdamW stay: 14 bytes each.
        states, need = 14 * counted(name), facts["training_bytes"]["bound"]
        for profile, on in facts["on_hardware"].items():
            has = int(PROFILES[profile].memory_gib * 2**30)
            assert on["bytes"] == has and on["fits"] == (need <= has)
            assert on["filled_by_states"] == pytest.approx(states / has, abs=1.01)
            (line,) = (x for x in shown.splitlines() if x.split()[:1] == [profile])
            assert ("holds this training" in line) == on["fits"]
            assert on["fits"] or f"fill {on['filled_by_states']} of them" in line
    assert values_of("debug_200m", capsys)["on_hardware"]["t4"]["fits"]
    assert not values_of("l2:b7", capsys)["on_hardware"]["rtx-4090"]["fits"]


@pytest.mark.covers("PRE-19: estimated memory")
def test_the_memory_shown_is_the_estimate_for_training(capsys):
    from lumina.config import Config
    from lumina.plan.costs.layout import Layout
    from lumina.plan.memory import estimate
    from lumina.plan.shape import resolve_spec
    from lumina.quantities import byte_size

    layout = Layout(1, compute_dtype="bfloat16", gradient_checkpointing="full")
    for name in ("debug", "b1", "l2:b7", "100M", "dense_125m"):
        wanted = estimate(resolve_spec(Config(preset=name)), layout)
        assert values_of(name, capsys)["training_bytes"] == wanted
        assert main(["presets", name]) == 0
        shown = capsys.readouterr().out
        most = byte_size(wanted["bound"])
        assert f"training    at most {most} on one device" in shown
        for part, value in wanted.items():
            if part not in ("bound", "expected") and value:
                assert f"    {part:<16}{byte_size(value)}" in shown, (name, part)
        # Master weights and two moments in float32, and bf16 weights, at least.
        assert wanted["bound"] > 14 * built(name)
