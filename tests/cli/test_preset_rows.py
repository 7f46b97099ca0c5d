"""The first document's preset table, row by row, as the command gives it back."""

from __future__ import annotations

import json

import pytest

from lumina.cli.main import main

# Hidden, layers, heads, key/value heads, context, experts: the document's own figures,
# but for b6_quality's key/value heads (10 do not divide 25; 5 do).
L1 = {
    "debug": (128, 2, 2, 1, 256, 4),
    "m70_memory": (768, 12, 12, 4, 1024, 8),
    "m120_speed": (768, 16, 12, 4, 1024, 8),
    "b1": (1024, 12, 16, 4, 2048, 8),
    "b3_inference": (2560, 24, 20, 10, 2048, 16),
    "b6_quality": (3200, 32, 25, 5, 4096, 32),
    "b7": (2048, 22, 16, 8, 4096, 16),
    "b14": (2560, 28, 20, 10, 4096, 32),
    "b50": (5120, 40, 40, 10, 128000, 64),
    "b100": (7168, 48, 56, 14, 200000, 96),
    "b200": (8192, 56, 64, 16, 1000000, 128),
    "b300": (9216, 64, 72, 18, 204800, 144),
}
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
    from lumina.model.network import build_network
    from lumina.plan.shape import resolve_spec

    network = build_network(resolve_spec(Config(preset=name)), device="meta")
    return sum(p.numel() for p in network.parameters())


def check(names, capsys):
    for name in names:
        row = values_of(name, capsys)
        assert tuple(row["values"][field] for field in FIELDS) == L1[name], name
        assert row["total"] == built(name) > row["active"] > 0


@pytest.mark.covers("PRE-01")
def test_every_row_of_the_table_is_there_by_name(capsys):
    check(L1, capsys)


@pytest.mark.covers("PRE-03", "PRE-04", "PRE-05")
def test_the_small_presets(capsys):
    check(("debug", "m70_memory", "m120_speed"), capsys)


@pytest.mark.covers("PRE-07", "PRE-08", "PRE-09")
def test_the_presets_of_one_to_fourteen_billion(capsys):
    check(("b1", "b3_inference", "b6_quality", "b7", "b14"), capsys)
    assert values_of("l2:b1", capsys)["active"] == pytest.approx(1e9, rel=0.05)
