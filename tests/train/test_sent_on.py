"""Overflowing tokens of a run that sends them on to their next best expert."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny_runs import EXPERTS, Runs


@pytest.mark.covers("MOD-18: sent to auxiliary routing")
def test_tokens_past_the_places_of_their_experts_are_sent_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They reach others, and fewer are dropped."""
    runs = Runs(tmp_path, monkeypatch)
    uneven = EXPERTS | {"routing_temperature": 0.01, "moe_top_k": 1}
    drops = runs.train(**uneven, moe_dispatch="capacity", capacity_factor=0.5)
    sends = runs.train(**uneven, overflow="reroute", capacity_factor=0.5)
    before, after = (run.rows[0]["moe.dropped_fraction"] for run in (drops, sends))
    found = sends.rows[0]["moe.rerouted_fraction"]
    # In the first layer both have the same tokens and the same choices.
    assert sends.rows[0]["moe.load"][0] == drops.rows[0]["moe.load"][0]
    assert after[0] < before[0] and found[0] > 0
    assert after[0] + found[0] == pytest.approx(before[0], abs=1e-6)
    assert "moe.rerouted_fraction" not in drops.rows[0]
    assert sends.column("loss") != drops.column("loss")
    assert sends.column("loss")[-1] < sends.first_loss
    grouped = {"moe_groups": 2, "moe_top_groups": 1, "overflow": "reroute"}
    assert "groups" in runs.refused("E002", **EXPERTS | {"moe_top_k": 1} | grouped)
