"""The arithmetic of `lumina bench decode`, and its ways of caching."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import pytest
import torch

from infer.networks import tiny
from lumina.cli.main import main
from lumina.infer import bench
from stand_ins import stand_in


def test_rates_are_of_all_rows_together(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.cycle([10.0, 10.5, 12.5])  # prompts, first tokens, the rest
    monkeypatch.setattr(
        bench, "time", stand_in(time, perf_counter=lambda: next(seconds))
    )
    network = tiny(320, seq_length=64)
    [found] = bench.measure_generation(network, [3], [5], new_tokens=9, rounds=2)
    assert found.first_seconds == [0.5, 0.5] and found.first == 0.5
    assert found.rate == [3 * 8 / 2.0] * 2
    assert found.prompt_rate == 3 * 5 / 0.5


def test_a_case_without_memory_does_not_end_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timed = bench._timed

    def short(case: bench.Case, *others: object) -> object:
        if case.batch_size == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return timed(case, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(bench, "_timed", short)
    network = tiny(320, seq_length=64)
    found = list(
        bench.measure_generation(network, [1, 2, 4], [5], new_tokens=2, rounds=1)
    )
    assert [bool(one.problem) for one in found] == [False, True, False]
    assert found[1].problem == "out of memory" and found[1].rate == []


def test_the_floor_is_every_weight_once_a_token() -> None:
    network = tiny(320, seq_length=64)
    read = sum(p.numel() for p in network.parameters()) * 4
    if not network.spec.tie_embeddings:
        read -= network.backbone.embedding.weight.numel() * 4
    assert bench.decoding_floor(network, 3, 1e9) == pytest.approx(3 * 1e9 / read)


def test_a_preset_answers_with_random_weights_by_each_way_of_caching(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "speeds.json"
    words = ["--preset", "dense_10m", "--device", "cpu", "--batch-sizes", "2"]
    words += ["--sequence-lengths", "8", "--new-tokens", "3", "--rounds", "1"]
    caches = ["--caches", "auto", "paged+int8"]
    assert main(["bench", "decode", *words, *caches, "--out", str(out)]) == 0
    assert "of-floor" in capsys.readouterr().out
    found = json.loads(out.read_text())
    first, second = found["speeds"]
    assert (first["cache"], second["cache"]) == ("auto", "paged+int8")
    assert first["path"] == second["path"] == "eager"
    floor = 2 * found["bandwidth"]
    rate = first["tokens_per_second"]
    assert 0 < first["share_of_floor"] == rate / first["floor_tokens_per_second"]
    assert first["floor_tokens_per_second"] < floor / found["parameters"]
    # The earlier name goes on working, and files of both can be compared.
    assert main(["bench", "generation", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "generation"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--cuda-graph", "on", "--sequence-lengths", "8"], "E002", "on cpu"),
        (["--caches", "tape"], "E005", "'tape' is no way of caching"),
        (["--caches", "int8", "--kv-cache-paged"], "E002", "leave one of them out"),
        (["--inference-precision", "int8"], "E002", "random weights"),
        (["runs/one"], "E005", "both a run and a shape"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    words: list[str], code: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ["bench", "decode", "--preset", "dense_10m", "--device", "cpu"]
    assert main([*start, *words]) == 2
    told = capsys.readouterr().err
    assert code in told and says in told


def test_random_weights_compute_something_finite() -> None:
    from lumina.infer.random_network import random_network

    network = random_network(tiny(320, seq_length=64).spec, "cpu", "fp32")
    logits = network.logits(torch.arange(8)[None])
    assert logits.isfinite().all() and logits.std() > 0
