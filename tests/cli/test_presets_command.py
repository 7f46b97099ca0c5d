"""`lumina presets`: true sizes."""

from __future__ import annotations

import json

import pytest

from lumina.cli.main import main
from lumina.config.presets import PRESETS


@pytest.mark.covers("PRE-19: true total and active parameter counts")
def test_list_shows_true_counts_and_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {
        line.split()[0].rstrip("*"): line.split()
        for line in lines[1 : 1 + len(PRESETS)]
    }
    assert set(rows) == set(PRESETS)
    assert rows["b7"][1:6] == ["MoE", "12.28B", "1.869B", "22.9", "GiB"]
    assert rows["b300"][2:4] == ["6.276T", "101.1B"]
    assert any(line.startswith("debug_200m*") for line in lines)
    kinds = {name: row[1] for name, row in rows.items()}
    assert kinds["dense_125m"] == "dense" and kinds["debug_200m"] == "MoD"
    assert kinds["1B"] == "MoD+MoR" and kinds["trm_arc"] == "TRM"


@pytest.mark.covers("PRE-19: true total and active parameter counts")
def test_detail_shows_counts_shares_and_memory(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["presets", "l1:b7"]) == 0
    printed = capsys.readouterr().out
    assert "12,284,094,464 parameters" in printed
    assert "15.2% of the whole model" in printed and "12.5% of them active" in printed
    assert "documented  7B" in printed and "optimizer" in printed
    assert main(["presets", "100M"]) == 0
    assert "use_mod, use_mor: a token passes" in capsys.readouterr().out


def test_json_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets", "--json"]) == 0
    facts = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert facts["b7"]["total"] == 12_284_094_464
    assert facts["b7"]["bf16_bytes"] == 2 * facts["b7"]["total"]
    assert facts["b7"]["training_bytes"]["bound"] > 8 * facts["b7"]["total"]
