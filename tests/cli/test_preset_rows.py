"""The first document's preset table, row by row, as the command gives it back."""

from __future__ import annotations

import json

import pytest

from lumina.cli.main import main
from preset_tables import L1

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
