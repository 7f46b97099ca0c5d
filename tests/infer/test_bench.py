"""The arithmetic of `lumina bench generation`."""

from __future__ import annotations

import itertools

import pytest
import torch

from infer.networks import tiny
from lumina.infer import bench


def test_rates_are_of_all_rows_together(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.cycle([10.0, 10.5, 12.5])  # prompts, first tokens, the rest
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(seconds))
    network = tiny(320, seq_length=64)
    [found] = bench.measure_generation(network, [3], [5], new_tokens=9, rounds=2)
    assert found.first_seconds == [0.5, 0.5] and found.first == 0.5
    assert found.rate == [3 * 8 / 2.0] * 2
    assert found.prompt_rate == 3 * 5 / 0.5


def test_a_case_without_memory_does_not_end_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timed = bench._timed

    def short(network: object, batch: int, *others: object) -> object:
        if batch == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return timed(network, batch, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(bench, "_timed", short)
    network = tiny(320, seq_length=64)
    found = list(
        bench.measure_generation(network, [1, 2, 4], [5], new_tokens=2, rounds=1)
    )
    assert [bool(one.problem) for one in found] == [False, True, False]
    assert found[1].problem == "out of memory" and found[1].rate == []
