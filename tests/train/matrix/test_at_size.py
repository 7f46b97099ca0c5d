"""Combinations of the earlier design at a size where memory counts, as measured.

`benchmarks/together_at_size.py` and `benchmarks/scaling.py` wrote the results.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lumina.features.measured import VERIFIED, committed_rows

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"


def rows_of(file: str) -> dict[str, dict[str, Any]]:
    lines = (RESULTS / file).read_text().splitlines()
    return {row["cell"]: row for row in map(json.loads, lines)}


@pytest.fixture(scope="module")
def at_size() -> dict[str, dict[str, Any]]:
    return rows_of("together_at_size-h200.jsonl")


def cells(name: str) -> set[str]:
    """The kinds of device on which a named cell was verified."""
    return {
        row["hardware"]["device"]
        for row in committed_rows()
        if row["named"] == name and row["status"] == VERIFIED
    }


def beside(rows: dict[str, Any], name: str, other: str, figure: str) -> float:
    """A figure of one cell over that of another one."""
    mine, theirs = rows[f"1 x {name}"], rows[f"1 x {other}"]
    return float(mine[figure] / theirs[figure])


def further(rows: dict[str, Any], name: str, other: str) -> float:
    """How far apart the last losses of two cells are."""
    return abs(rows[f"1 x {name}"]["losses"][-1] - rows[f"1 x {other}"]["losses"][-1])


@pytest.mark.covers("MTX-01", "MTX-02", "MTX-05: needs bitsandbytes and CUDA")
def test_checkpointing_mixed_precision_and_8_bits(
    at_size: dict[str, dict[str, Any]],
) -> None:
    """What was promised: 60 to 70% less memory, 20 to 25% slower."""
    first, second = (
        "MTX-01 checkpointing + mixed precision",
        "MTX-02 checkpointing + mixed precision + 8-bit",
    )
    assert 0.3 < beside(at_size, first, "mixed precision", "peak_bytes") < 0.4
    assert beside(at_size, first, "nothing", "peak_bytes") < 0.2
    assert 1.3 < beside(at_size, first, "mixed precision", "step_seconds") < 1.45
    assert beside(at_size, second, first, "peak_bytes") < 0.75
    assert beside(at_size, second, first, "step_seconds") < 1.05
    # Quality: the loss is that of mixed precision, and near float32's.
    assert further(at_size, first, "mixed precision") < 1e-3
    assert further(at_size, first, "nothing") < 0.03
    assert further(at_size, second, "nothing") < 0.03
    assert cells("MTX-01") == cells("MTX-02") == {"cpu", "cuda"}
    assert "cuda" in cells("MTX-01 DDP")
    # 8-bit moments need neither bitsandbytes nor a GPU.
    assert cells("MTX-05") == {"cpu", "cuda"}
    eight = "MTX-05 checkpointing + 8-bit"
    assert beside(at_size, eight, "checkpointing", "peak_bytes") < 0.75
    assert further(at_size, eight, "checkpointing") < 1e-3


@pytest.mark.covers("MTX-03")
def test_the_longest_row_on_11_gb(at_size: dict[str, dict[str, Any]]) -> None:
    whole, again = at_size["MTX-03 whole"], at_size["MTX-03 checkpointing"]
    assert whole["limit_bytes"] == again["limit_bytes"] == 11 * 10**9
    assert max(whole["peak_bytes"], again["peak_bytes"]) < 11 * 10**9
    assert whole["longest_row"] == 2048 and again["longest_row"] == 14_336
    assert cells("MTX-03") == {"cpu", "cuda"}


@pytest.mark.covers("MTX-12")
def test_zero_2_with_mixed_precision() -> None:
    """Of 1.5 B parameters on two GPUs: less memory than DDP, as fast."""
    rows = rows_of("scaling-h200-x2.jsonl")
    zero, ddp = rows["A/lumina/2/zero2/1"], rows["A/lumina/2/ddp/1"]
    assert zero["peak_gib"] < 0.75 * ddp["peak_gib"]
    assert zero["tokens_per_second"] > 0.98 * ddp["tokens_per_second"]
    assert cells("MTX-12") == {"cpu", "cuda"}
