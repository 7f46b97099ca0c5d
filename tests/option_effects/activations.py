"""What is kept of the activations, and where."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lumina.assemble.kept.beside import Away, Beside
from lumina.ops.attention.dispatch import observed
from option_effects import shows
from tiny_runs import Program, Runs, seen


@shows("activation_budget")
def budget(runs: Runs) -> None:
    """A smaller budget makes more blocks run their forward pass again."""
    shape = {"num_layers": 4, "seq_length": 512, "batch_size": 2, "steps": 1}
    taken, losses = [], set()
    for size in (3 * 2**20, 2**26):
        calls: list[int] = []

        def count(program: Program, _: Any, calls: list[int] = calls) -> None:
            for block in program.network.backbone.blocks:
                norm = block.feedforward_norm
                norm.register_forward_hook(lambda *_: calls.append(1))

        run = runs.train(
            seen(count, []),
            **shape,
            gradient_checkpointing="budget",
            activation_budget=size,
        )
        taken.append(len(calls))
        losses.add(run.first_loss)
    # Two forwards of four blocks.
    assert taken[0] - taken[1] == 8 and len(losses) == 1


@shows("activations_in", "activation_bits")
def kept(runs: Runs) -> None:
    """On disk the weights stay as they are; in few bits they are others."""
    put: list[int] = []
    plain = Beside.put

    def count(store: Beside, tensor: Tensor) -> Away:
        put.append(tensor.numel())
        return plain(store, tensor)

    runs.monkeypatch.setattr(Beside, "put", count)
    full = {"gradient_checkpointing": "full", "steps": 2}
    here = runs.train(**full)
    assert not put
    away = runs.train(**full, activations_in="disk")
    assert put and len(set(put)) == 1
    coded = runs.train(**full, activation_bits=4)
    for name, tensor in here.tensors.items():
        assert torch.equal(away.tensors[name], tensor), name
    assert coded.first_loss == here.first_loss
    rounded = coded.tensors
    assert not all(torch.equal(rounded[n], t) for n, t in here.tensors.items())
    assert "CUDA" in runs.refused("E003", **full, activations_in="host")


@shows("feedforward_tile")
def tiles(runs: Runs) -> None:
    """No product inside of a feed-forward has more tokens than a tile."""
    widest: dict[int, int] = {}
    losses = []
    for size in (0, 24):

        def look(program: Program, _: Any, size: int = size) -> None:
            def note(module: Any, arguments: Any, output: Tensor) -> None:
                tokens = output.numel() // output.shape[-1]
                widest[size] = max(widest.get(size, 0), tokens)

            down = program.network.backbone.blocks[0].feedforward.down
            down.register_forward_hook(note)

        run = runs.train(seen(look, []), feedforward_tile=size, steps=2)
        losses.append(run.column("loss"))
    assert widest[24] == 24 < widest[0]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@shows("attention_head_groups")
def head_groups(runs: Runs) -> None:
    """Attention goes back once for each group, over that group's heads alone."""
    shape = {"num_heads": 4, "num_kv_heads": 2, "feedforward_tile": 24, "steps": 2}
    asked: dict[int, set[int]] = {}
    losses = []
    for groups in (1, 2):
        widths = asked.setdefault(groups, set())
        with observed(lambda query, key, widths=widths: widths.add(query.shape[2])):
            run = runs.train(**shape, attention_head_groups=groups)
        losses.append(run.column("loss"))
    assert asked == {1: {4}, 2: {2}}
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert "divide" in runs.refused("E002", **shape, attention_head_groups=3)
