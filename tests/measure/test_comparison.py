"""`lumina bench compare`: what is worse is told apart from what only looks so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lumina.cli.main import main
from lumina.measure.bench.comparison import Measure, compare, interval

ROWS = 60


def write(path: Path, **changes: Any) -> Path:
    """A run's metrics: steps of 0.1 s with common noise, and noise of their own."""
    noise = np.random.default_rng(1)
    slow = 0.1 * (1 + 0.2 * noise.random(ROWS))
    own = np.random.default_rng(changes.pop("seed", 2))
    speed, loss = changes.pop("slower", 0.0), changes.pop("loss", 0.0)
    memory = changes.pop("memory", 1000)
    path.mkdir()
    rows = [
        {
            "step": step + 1,
            "step_seconds": slow[step] * (1 + speed) * (1 + 0.01 * own.normal()),
            "loss": 5.0 - step / ROWS + loss + 0.001 * own.normal(),
            "eval_loss": 4.0 + loss if step % 20 == 19 else None,
            "memory_peak_bytes": memory if step == 40 else 500,
        }
        for step in range(ROWS)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def verdicts(
    capsys: pytest.CaptureFixture[str], code: int, *words: Path | str
) -> dict[str, Any]:
    assert main(["bench", "compare", *map(str, words), "--json"]) == code
    return {one["name"]: one for one in json.loads(capsys.readouterr().out)}


@pytest.mark.covers("DIA-12")
@pytest.mark.covers("DOC-02: performance regression")
def test_a_slower_worse_or_larger_run_ends_with_exit_code_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write(tmp_path / "base")
    same = verdicts(capsys, 0, base, write(tmp_path / "same", seed=3))
    assert {one["verdict"] for one in same.values()} <= {"no worse", "better"}
    assert same["step time (s)"]["pairs"] == ROWS - 5
    for name, changes, measure in (
        ("slow", {"slower": 0.08}, "step time (s)"),
        ("bad", {"loss": 0.03}, "loss"),
        ("large", {"memory": 1100}, "memory, most (bytes)"),
    ):
        other = write(tmp_path / name, seed=3, **changes)
        found = verdicts(capsys, 1, base, other)
        assert found[measure]["verdict"] == "worse"
        assert found[measure]["low"] > found[measure]["margin"]
        back = verdicts(capsys, 0, other, base)
        assert back[measure]["change"] < 0
    wide = ["--time-margin", "0.1"]
    verdicts(capsys, 0, base, tmp_path / "slow", *wide)
    edge = write(tmp_path / "edge", seed=3, slower=0.05)
    unclear = verdicts(capsys, 0, base, edge)["step time (s)"]
    assert unclear["verdict"] == "unclear"
    verdicts(capsys, 1, base, edge, "--strict")
    assert main(["bench", "compare", str(base), str(tmp_path / "bad")]) == 1
    text = capsys.readouterr().out
    assert "worse" in text and "held-out loss" in text and "%" in text


def test_pairs_take_out_what_both_have_in_common() -> None:
    noise = np.random.default_rng(0).lognormal(0, 1, 40)
    found = compare(Measure("time", noise, noise * 1.02, True, 0.05))
    assert found is not None
    assert found.low == pytest.approx(0.02) and found.high == pytest.approx(0.02)


def test_the_interval_holds_the_median_in_most_draws() -> None:
    held = 0
    for seed in range(40):
        values = np.random.default_rng(seed).normal(0.3, 1.0, 80)
        low, high = interval(values)
        held += low <= 0.3 <= high
    assert held >= 34  # of 40: 95% nominally; blocks of short series give a little less


def test_a_higher_rate_is_better() -> None:
    rates = np.linspace(90, 110, 20)
    less = compare(Measure("rate", rates, rates * 0.8, True, 0.05, True))
    more = compare(Measure("rate", rates, rates * 1.2, True, 0.05, True))
    assert less is not None and less.verdict == "worse"
    assert more is not None and more.verdict == "better"


def test_too_few_steps_and_other_files_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write(tmp_path / "base")
    other = tmp_path / "other.json"
    other.write_text("{}")
    for words, code in (
        ([base, base, "--skip", str(ROWS - 3)], "E105"),
        ([base, other], "E101"),
        ([base, tmp_path / "none"], "E104"),
    ):
        assert main(["bench", "compare", *map(str, words)]) == 1
        assert code in capsys.readouterr().err
    assert main(["bench", "compare", str(base), str(base), "--skip", "-1"]) == 2
