"""What bfloat16 is worth on a processor: measured once, the same for all who ask."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lumina.config import Config
from lumina.plan import cpu_precision
from lumina.plan.cpu_precision import bf16_speedup, measured_speedup
from lumina.plan.doctor import _precisions
from lumina.plan.environment import probe
from machines import plan_for

AMX = ("amx_bf16", "avx512_bf16")


@pytest.fixture
def measurements(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[float]:
    """An empty cache, and what the next measurements will find."""
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path / "cache"))
    found = [1.7, 0.6]
    monkeypatch.setattr(cpu_precision, "measured_speedup", lambda: found.pop(0))
    monkeypatch.setattr("lumina.plan.environment.cpu_features", lambda: AMX)
    return found


def test_a_block_is_really_timed_in_both_types() -> None:
    assert 0.001 < measured_speedup(seconds=0.0) < 1000


def test_it_is_measured_once_for_everyone(measurements: list[float]) -> None:
    first = plan_for(Config(vocab_size=64), probe("cpu"))
    assert first.compute_dtype == "bfloat16"
    assert "1.70x" in first.reasons["compute_dtype"]
    again = plan_for(Config(vocab_size=64), probe("cpu"))
    assert again.reasons["compute_dtype"] == first.reasons["compute_dtype"]
    doctor = {row.name: row.value for row in _precisions(probe("cpu"))}
    assert doctor["auto"] == f"bfloat16: {first.reasons['compute_dtype']}"
    assert doctor["bf16"] == "works"
    assert measurements == [0.6]


def test_a_small_gain_is_not_worth_the_rounding(measurements: list[float]) -> None:
    measurements[0] = 1.29
    assert plan_for(Config(vocab_size=64), probe("cpu")).compute_dtype == "float32"
    measurements[0] = 1.31
    assert bf16_speedup(AMX, "another processor") == 1.31
    assert cpu_precision.worth(1.31)


def test_other_threads_or_another_processor_are_measured_anew(
    measurements: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bf16_speedup(AMX, "one") == 1.7
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert bf16_speedup(AMX, "one") == 0.6
    monkeypatch.undo()


def test_without_instructions_nothing_is_measured(measurements: list[float]) -> None:
    assert bf16_speedup(("avx2",), "old") is None
    assert measurements == [1.7, 0.6]


def test_a_damaged_record_is_measured_anew(
    measurements: list[float], tmp_path: Path
) -> None:
    record = tmp_path / "cache" / "bf16.json"
    record.parent.mkdir()
    for content in (b"{", b"[1]", b'{"one": "fast"}'):
        record.write_bytes(content)
        measurements[:] = [1.35]
        assert bf16_speedup(AMX, "one") == 1.35
        assert list(json.loads(record.read_bytes()).values())[-1] == 1.35


def test_a_cache_that_cannot_be_written_stops_nobody(
    measurements: list[float], tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file stands where the folder should be")
    assert bf16_speedup(AMX, "one") == 1.7
