"""`lumina train --dry-run`: the plan is told and nothing is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from lumina.cli.main import main
from lumina.config import Config
from lumina.plan.count import count_parameters
from lumina.plan.shape import resolve_spec
from lumina.quantities import byte_size
from lumina.state.run_directory import RunDirectory
from machines import gpu, plan_for

BASE = ["--preset", "debug", "--device", "cpu", "--precision", "fp32"]


@pytest.mark.covers("DIA-02")
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
    for name in ("weights", "optimizer", "activations", "bound", "expected"):
        assert byte_size(memory[name]) in text
    assert "steps        37" in text
    assert not list(tmp_path.rglob("*"))


@pytest.mark.covers("TRN-37: pre-flight validation")
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


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a dry run says that refuses; the run itself refuses with the same code."""
    told = []
    for more in (["--dry-run"], []):
        assert main(["train", *BASE, *words, *more]) != 0, words
        captured = capsys.readouterr()
        told.append((captured.out + captured.err).strip().splitlines()[-2])
    codes = [line.split()[0] for line in told]
    assert codes[0] == codes[1], told
    return told[0]


SMALL = ["--steps", "2", "--global-batch-size", "2", "--eval-batches", "1"]


def test_dry_run_looks_at_the_runs_directory(
    tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--train-data", str(tiny_corpus), *SMALL]
    run = tmp_path / "run"
    assert main(["train", *BASE, *data, "--run-dir", str(run)]) == 0
    capsys.readouterr()
    before = sorted(run.rglob("*"))
    assert "E002" in refused(capsys, *data, "--run-dir", str(run))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    told = refused(capsys, *data, "--run-dir", str(tmp_path / "full"))
    assert "neither empty nor a run" in told
    file = tmp_path / "full" / "notes.txt"
    for path in (file, file / "below"):
        assert "cannot write" in refused(capsys, *data, "--run-dir", str(path))
    holder = RunDirectory(run).acquire(resume=True)
    try:
        told = refused(capsys, "--resume", str(run), "--steps", "4")
        assert "another process writes" in told
    finally:
        holder.close()
    assert sorted(run.rglob("*")) == before
    # Nothing of it stands in the way of what a run may do.
    words = ["--resume", str(run), "--steps", "4", "--dry-run"]
    assert main(["train", *BASE, *words]) == 0
    assert "steps        4" in capsys.readouterr().out


def test_dry_run_compares_the_data_and_the_freezing(
    tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    data = ["--train-data", str(tiny_corpus), *SMALL]
    assert main(["train", *BASE, *data, "--run-dir", str(run)]) == 0
    capsys.readouterr()
    other = tmp_path / "other.txt"
    other.write_text("Other words altogether, of another day.\n" * 50)
    resume = ["--resume", str(run), "--steps", "4", "--train-data", str(other)]
    assert "data is not what" in refused(capsys, *resume)
    start = [*data, "--run-dir", str(tmp_path / "new"), "--init-from", str(run)]
    frozen = refused(capsys, *start, "--freeze", "blocks.*.attention.q.weight")
    assert "one matrix in memory" in frozen
    start[-3] = str(tmp_path / "newer")
    assert main(["train", *BASE, *start, "--dry-run"]) == 0
    assert not (tmp_path / "newer").exists()


def test_dry_run_plans_for_the_processes_that_are_asked_for(
    tiny_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--train-data", str(tiny_corpus), "--steps", "2", "--dry-run"]
    words = [*data, "--nproc", "2", "--global-batch-size"]
    assert main(["train", *BASE, *words, "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["world_size", "2"] for line in lines)
    assert main(["train", *BASE, *words, "3"]) != 0
    captured = capsys.readouterr()
    assert "E002" in captured.out + captured.err


def test_dry_run_says_what_a_run_lacks_or_would_not_do(
    tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *BASE, "--steps", "2", "--dry-run"]) == 0
    assert "a run needs --train-data" in capsys.readouterr().out
    run = tmp_path / "run"
    data = ["--train-data", str(tiny_corpus), *SMALL, "--run-dir", str(run)]
    assert main(["train", *BASE, *data]) == 0
    assert main(["train", *BASE, "--resume", str(run), "--dry-run"]) == 0
    assert "nothing is trained" in capsys.readouterr().out


def test_dry_run_refuses_more_processes_than_gpus(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lumina.train.preparation.probe", lambda config: gpu())
    words = ["train", "--preset", "debug", "--steps", "2", "--dry-run", "--nproc", "3"]
    assert main(words) != 0
    captured = capsys.readouterr()
    assert "E003" in captured.out + captured.err
    assert "3 processes" in captured.out + captured.err
