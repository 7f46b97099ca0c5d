"""A run that has ended, well or not, holds no tensor: the next one has the room."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from capped_memory import CappedMemory
from lumina.errors import LuminaError
from tiny_runs import EXPERTS, Runs


def tensors() -> dict[int, torch.Tensor]:
    """All tensors that are alive."""
    gc.collect()
    return {id(one): one for one in gc.get_objects() if type(one) is torch.Tensor or
            type(one) is torch.nn.Parameter}  # fmt: skip


def assert_freed(before: dict[int, torch.Tensor]) -> None:
    left = [one for key, one in tensors().items() if key not in before]
    assert not left, [tuple(one.shape) for one in left[:8]]


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Runs(tmp_path, monkeypatch)


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "gradients summed in float32": {"precision": "bf16", "global_batch_size": 8},
    "recomputed": {"gradient_checkpointing": "full", "precision": "bf16"},
    "routed": EXPERTS | {"precision": "bf16", "global_batch_size": 8},
    "averaged and clipped": {
        "ema_decay": 0.9,
        "qk_clip": 50.0,
        "precision": "bf16",
        "global_batch_size": 8,
    },
    "watched": {"adaptive": "on", "optimizer": "muon", "global_batch_size": 8},
}


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(name, marks=[pytest.mark.thorough] if number != 1 else [])
        for number, name in enumerate(VARIANTS)
    ],
)
def test_a_run_that_is_over_holds_nothing(runs: Runs, variant: str) -> None:
    runs.train(steps=1)  # tables that are made once for all
    before = tensors()
    runs.train(steps=3, **VARIANTS[variant])
    assert_freed(before)


@pytest.mark.thorough
@pytest.mark.parametrize("recovery", [True, False])
def test_a_run_that_lacked_memory_holds_nothing(runs: Runs, recovery: bool) -> None:
    asked = {"steps": 3, "seq_length": 256, "precision": "bf16"}
    with CappedMemory() as unlimited:
        runs.train(**asked)
    before = tensors()
    with CappedMemory(int(0.8 * unlimited.peak)) as memory:
        if recovery:
            events = runs.train(**asked).events
            assert any(e["kind"] == "memory_recovered" for e in events)
        else:
            with pytest.raises(LuminaError, match="E201"):
                runs.train(memory_recovery=False, **asked)
    assert memory.failures
    assert_freed(before)
