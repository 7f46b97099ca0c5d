"""`lumina bench train` alone: what is measured, what is written, what is refused."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import pytest

from lumina.cli.main import main
from lumina.plan.flops import CONVENTION
from lumina.train.bench import timing
from stand_ins import stand_in

SMALL = [
    "--no-use-moe", "--hidden-size", "32", "--intermediate-size", "64",
    "--num-layers", "2", "--num-heads", "2", "--num-kv-heads", "1",
    "--seq-length", "32", "--batch-size", "2", "--global-batch-size", "4",
    "--precision", "fp32", "--device", "cpu",
]  # fmt: skip
RANDOM = [*SMALL, "--vocab-size", "320"]


def test_random_rows_are_trained_on_and_timed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    words = ["bench", "train", *RANDOM, "--steps", "9", "--warm-up", "2"]
    assert main([*words, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    found = json.loads(out.read_text())
    assert found["rows"] == "random tokens" and len(found["step_seconds"]) == 9
    assert len(found["losses"]) == 11
    # Nine steps on, the rows of the third come again, and something was learned.
    assert found["losses"][8] < found["losses"][0]
    step = found["step"]
    assert step["least"] <= step["quartiles"][0] <= step["median"] <= step["most"]
    assert step["interval"][0] <= step["median"] <= step["interval"][1]
    assert found["tokens_per_second"] == pytest.approx(4 * 32 / step["median"])
    whole = found["tokens_per_second"] * found["flops_per_token"]
    assert found["mfu"] == pytest.approx(whole / found["peak_flops"])
    assert CONVENTION in printed and "measured on this processor" in printed
    assert found["memory"]["reserved"] > 2**20
    assert "CUDA devices only" in found["gpu"]["missing"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.json"]


def test_real_rows_come_from_the_data(
    tiny_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", "train", *SMALL, "--tokenizer-vocab-size", "300", "--steps", "2"]
    words += ["--train-data", str(tiny_corpus), "--warm-up", "0", "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == "data" and found["step"]["interval"] is None
    assert main([*words, "--synthetic"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == "random tokens"


def test_experts_are_timed_with_the_parameters_that_a_token_uses(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["bench", "train", *RANDOM[1:], "--use-moe", "--num-experts", "4"]
    words += ["--moe-intermediate-size", "32", "--steps", "1", "--warm-up", "0"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["active_parameters"] < found["parameters"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--steps", "0"], "steps"),
        (["--warm-up", "-1"], "warm-up is -1"),
        (["--nproc", "2"], "one process"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "train", *RANDOM, *words]) == 2
    assert says in capsys.readouterr().err


def test_each_time_is_from_the_end_of_one_step_to_the_end_of_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = itertools.accumulate([1.0, 0.5, 2.0, 4.0])
    monkeypatch.setattr(
        timing, "time", stand_in(time, perf_counter=lambda: next(clock))
    )
    assert timing.timed(lambda: None, 3, "cpu", lambda: False) == [0.5, 2.0, 4.0]
    asked = iter([False, True])
    clock = itertools.accumulate([1.0, 0.5])
    assert timing.timed(lambda: None, 3, "cpu", lambda: next(asked)) == [0.5]


def test_the_interval_of_ratios_is_students_over_their_logarithms() -> None:
    """By hand: logs -0.1, 0, 0.1 have s = 0.1; 4.303 * 0.1 / sqrt(3) = 0.24843."""
    import math

    ratios = [math.exp(x) for x in (-0.1, 0.0, 0.1)]
    found = timing.ratio_interval(ratios)
    assert found is not None
    middle, low, high = (math.log(x) for x in found)
    assert middle == pytest.approx(0, abs=1e-12)
    assert low == pytest.approx(-0.24843, abs=1e-4) and high == pytest.approx(-low)
    assert timing.ratio_interval([1.2]) is None
