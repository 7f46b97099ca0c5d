"""Width and heads of a reasoner are those that the options of every model name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lumina.model.attention import Attention
from option_effects.hrm import tiny_reasoner
from tiny_runs import Program, Runs, seen


@pytest.mark.covers("MOD-12: --hidden-size, --num-heads")
@pytest.mark.parametrize(("width", "heads"), [(32, 2), (32, 4), (48, 4)])
def test_width_and_heads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int, heads: int
) -> None:
    runs = Runs(tmp_path, monkeypatch)
    found: list[list[tuple[int, ...]]] = []

    def look(program: Program, batches: Any) -> list[tuple[int, ...]]:
        modules = program.network.modules()
        return [
            (one.heads[0], one.head_dim, *one.out.weight.shape)
            for one in modules
            if isinstance(one, Attention)
        ]

    shape = {"hidden_size": width, "num_heads": heads, "num_kv_heads": heads}
    run = runs.train(seen(look, found), **tiny_reasoner(runs) | shape)
    # One high-level block and one low-level one.
    assert found[0] == [(heads, width // heads, width, width)] * 2
    assert run.tensor("halting.weight").shape[-1] == width
    assert run.rows[-1]["eval_exact_accuracy"] >= 0
