"""`lumina train --dry-run`: the plan is told and nothing is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from lumina.cli.main import main
from lumina.config import Config
from lumina.plan.count import count_parameters
from lumina.plan.memory_text import gibibytes
from lumina.plan.shape import resolve_spec
from machines import plan_for

BASE = ["--preset", "debug", "--device", "cpu", "--precision", "fp32"]


@pytest.mark.covers("DIA-02", "DIA-03")
def test_dry_run_tells_counts_memory_and_steps_and_trains_nothing(
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    data = ["--train-data", str(tiny_corpus), "--steps", "37"]
    assert main(["train", *BASE, *data, "--dry-run"]) == 0
    text = capsys.readouterr().out
    config = Config.resolve(preset="debug", flags={"steps": 37})
    counts = count_parameters(resolve_spec(config))
    for number in (counts.total, counts.active, counts.experts, counts.attention):
        assert f"{number:,}" in text
    memory = plan_for(config.replace(device="cpu", precision="fp32")).memory
    for name in ("weights", "optimizer", "activations", "total"):
        assert gibibytes(memory[name]) in text
    assert "steps        37" in text
    assert not list(tmp_path.rglob("*"))


def test_dry_run_refuses_what_a_run_would_refuse(
    tiny_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--train-data", str(tiny_corpus), "--precision", "tf32", "--dry-run"]
    assert main(["train", "--preset", "debug", "--device", "cpu", *data]) != 0
    captured = capsys.readouterr()
    assert "E003" in captured.out + captured.err


def test_checkpointing_changes_the_memory_told(
    tiny_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--train-data", str(tiny_corpus), "--dry-run"]
    kept = []
    for mode in ("none", "full"):
        assert main(["train", *BASE, *data, "--gradient-checkpointing", mode]) == 0
        lines = capsys.readouterr().out.splitlines()
        line = next(x for x in lines if x.strip().startswith("activations"))
        kept.append(float(line.split()[1]))
    assert kept[1] < kept[0] / 3
