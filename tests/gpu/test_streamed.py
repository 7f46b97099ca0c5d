"""Weights of blocks that come to a GPU block by block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lumina.optim.paging.home import memory
from tiny_runs import Runs

pytestmark = pytest.mark.gpu

SHAPE = {"device": "cuda", "num_layers": 4, "tie_embeddings": False}


def test_pinned_memory_has_the_size_that_is_asked_for() -> None:
    for size in (4096, 3 * 2**20 + 4096):
        made = memory(size, pinned=True)
        assert made.is_pinned() and made.untyped_storage().nbytes() == size
        device = torch.arange(size, device="cuda").to(torch.uint8)
        made.copy_(device, non_blocking=True)
        torch.cuda.synchronize()
        assert torch.equal(made.cuda(), device)
        del made
    torch.zeros(1, device="cuda").item()  # no error is left behind


@pytest.mark.parametrize("place", ["host", "disk"])
@pytest.mark.parametrize(
    "beside",
    [
        {"gradient_checkpointing": "none"},
        {"gradient_checkpointing": "full", "load_in_4bit": True},
        {"gradient_checkpointing": "sqrt", "load_in_4bit": True, "weights_ahead": 2},
        {"gradient_checkpointing": "full", "feedforward_tile": 16},
        {"gradient_checkpointing": "full", "activations_in": "host"},
        {"gradient_checkpointing": "full", "compile": True, "lora_dropout": 0.0},
    ],
    ids=lambda beside: " ".join(map(str, beside.values())),
)
def test_a_run_with_it_is_the_run_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: dict[str, Any], place: str
) -> None:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path / "cache"))
    runs = Runs(tmp_path, monkeypatch)
    base = runs.train(**SHAPE, compile=False, steps=1)
    asked = SHAPE | {"compile": False, "steps": 4, "deterministic": True} | beside
    asked |= {"init_from": str(base.folder), "use_peft": True}
    wanted = runs.train(**asked)
    found = runs.train(**asked, weights_in=place)
    assert found.column("loss") == wanted.column("loss")
    weights = wanted.tensors
    for name, tensor in found.tensors.items():
        assert torch.equal(tensor, weights[name]), name


@pytest.mark.parametrize(
    "beside",
    [
        {"gradient_checkpointing": "none"},
        {"gradient_checkpointing": "full", "global_batch_size": 8, "batch_size": 4},
        {"gradient_checkpointing": "full", "feedforward_tile": 16},
        {"optimizer_in_backward": True, "max_grad_norm": 0.0},
        {"gradient_checkpointing": "full", "compile": True},
    ],
    ids=lambda beside: " ".join(map(str, beside.values())),
)
def test_all_weights_train_as_on_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: dict[str, Any]
) -> None:
    """Tiles read the gradient accumulators of parameters that come and go."""
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path / "cache"))
    runs = Runs(tmp_path, monkeypatch)
    asked = SHAPE | {"compile": False, "steps": 4, "deterministic": True}
    asked |= {"precision": "bf16", "optimizer_states_in": "host"} | beside
    wanted = runs.train(**asked)
    found = runs.train(**asked, weights_in="host")
    assert found.column("loss") == wanted.column("loss")
    weights = wanted.tensors
    for name, tensor in found.tensors.items():
        assert torch.equal(tensor, weights[name]), name
