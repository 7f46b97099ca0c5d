"""Options of rates that carry over to other sizes."""

from __future__ import annotations

import pytest
import torch

from option_effects import shows
from tiny_runs import Runs


@shows("lr_transfer", "base_width", "base_depth")
def carried(runs: Runs) -> None:
    """First weights and, after a step of Adam, the rate, of a matrix."""
    name = "blocks.0.attention.out.weight"
    shape = {"hidden_size": 64, "num_heads": 4, "num_kv_heads": 4, "head_dim": 16}
    how = shape | {"weight_decay": 0.0, "steps": 1, "eps": 1e-12}

    def first(**leaves: object) -> torch.Tensor:
        return runs.train(learning_rate=1e-12, **how, **leaves).tensor(name)

    def step(**leaves: object) -> float:
        moved = runs.train(learning_rate=1e-3, **how, **leaves).tensor(name)
        return (moved - first(**leaves)).abs().max().item()

    half = {"lr_transfer": "mup", "base_width": 32}
    deep = {"lr_transfer": "completep", "base_width": 32, "base_depth": 1}
    plain = first()
    assert torch.allclose(first(**half), plain / 2**0.5, atol=1e-7)
    assert torch.allclose(first(**(half | {"base_width": 16})), plain / 2, atol=1e-7)
    assert torch.allclose(first(**deep), plain / 2, atol=1e-7)
    assert step() == pytest.approx(1e-3, rel=0.01)
    assert step(**half) == pytest.approx(5e-4, rel=0.01)
    assert step(**deep) == pytest.approx(2.5e-4, rel=0.01)
    # Rate times decay stays the same share of the weights.
    rate = {"learning_rate": 1e-3, "steps": 1, "eps": 1e-12}
    kept, gone = (
        runs.train(**shape, **rate, **half, weight_decay=decay).tensor(name)
        for decay in (0.0, 10.0)
    )
    assert torch.allclose(kept - gone, 1e-2 * first(**half), atol=1e-6)
    runs.refused("E002", lr_transfer="mup")
