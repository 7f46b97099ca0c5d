"""Profiles on a GPU: kernels in the trace, memory by the allocator. Needs a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lumina.cli.main import main

pytestmark = pytest.mark.gpu

SMALL = [
    "--preset", "dense_10m", "--vocab-size", "8192", "--tokenizer-vocab-size", "300",
    "--batch-size", "4", "--global-batch-size", "8", "--device", "cuda",
    "--no-compile",
]  # fmt: skip


def profiled(kind: str, corpus: Path, out: Path, *words: str) -> dict[str, Any]:
    common = ["--train-data", str(corpus), "--output", str(out), "--steps", "3"]
    assert main(["profile", kind, *common, *SMALL, *words]) == 0
    return json.loads((out / "profile.json").read_text())  # type: ignore[no-any-return]


def test_kernels_and_phases_of_a_step(tiny_corpus: Path, tmp_path: Path) -> None:
    found = profiled("training", tiny_corpus, tmp_path / "p")
    assert (0 < found["busy"] <= 1 and found["mfu"] is None) or found["mfu"] > 0
    assert not any(one["name"].startswith("aten::") for one in found["operations"])
    for step in found["steps"]:
        assert step["parts"]["backward"] > 0


def test_memory_by_part_beside_the_plan(tiny_corpus: Path, tmp_path: Path) -> None:
    found = profiled("memory", tiny_corpus, tmp_path / "p", "--track-allocations")
    weights, states, _ = found["parts"]
    assert weights["measured"] == pytest.approx(weights["planned"], rel=0.02)
    assert states["measured"] == pytest.approx(states["planned"], rel=0.02)
    assert found["peak"] <= found["bound"]
    tracked = found["tracked_peak"]
    assert 0 < tracked == sum(one["size"] for one in found["allocations"])
    assert any(".py:" in one["where"] for one in found["allocations"])
