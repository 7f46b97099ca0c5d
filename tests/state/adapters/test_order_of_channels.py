"""Adapters of models whose channels an import reorders are not taken as they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lumina.config import Config
from lumina.errors import LuminaError
from lumina.plan.shape import resolve_spec
from lumina.state.adapters.adapter import Adapter, Piece
from lumina.state.adapters.named import check_order
from lumina.state.weights import InMemory, Weights

LATENT = {"mla_kv_rank": 16, "mla_rope_dim": 8, "num_kv_heads": None}
PLAIN = {"model_type": "deepseek_v3", "rope_interleave": True}


def told(
    folder: Path, hf: dict[str, Any] | None, name: str, **changes: Any
) -> list[str]:
    spec = resolve_spec(Config(preset="debug", use_moe=False, **LATENT))
    if hf is not None:
        (folder / "config.json").write_text(json.dumps(hf))
    weights = Weights(spec, InMemory({}), None, folder, "")
    piece = Piece({"a": torch.ones(1, 1), "b": torch.ones(1, 1)}, 1, 1.0)
    adapter = replace(Adapter("farm", "lora", {name: piece}), **changes)
    events: list[str] = []
    check_order(weights, [adapter], lambda *facts: events.append(facts[3]))
    return events


@pytest.mark.parametrize("piece", ["q", "kv_down"])
def test_reordered_channels_are_refused_or_warned_of(tmp_path: Path, piece) -> None:
    name = f"blocks.0.attention.{piece}.weight"
    assert told(tmp_path, PLAIN, name) == []
    with pytest.raises(LuminaError, match="reordered or scaled") as error:
        told(tmp_path, PLAIN | {"rope_interleave": False}, name)
    assert "merge the adapter into its model with PEFT" in error.value.hint
    (tmp_path / "config.json").unlink()
    (warning,) = told(tmp_path, None, name)  # a run, which may have been imported
    assert "rope_interleave" in warning
    assert told(tmp_path, None, name, base_hash="of Lumina") == []


def test_other_matrices_keep_their_order(tmp_path: Path) -> None:
    halves = PLAIN | {"rope_interleave": False}
    assert told(tmp_path, halves, "blocks.0.attention.o.weight") == []
