"""`lumina lr-range`, on a small model."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import pytest

from lumina.cli import lr_range
from lumina.cli.main import main
from stand_ins import stand_in
from tiny_runs import Runs


@pytest.mark.covers("TRN-16", "DIA-16")
def test_a_sweep_leaves_its_files_and_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = Runs(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(runs.config(steps=1, learning_rate=1e-5).to_yaml())
    flags = ["--config-file", "run.yaml", "--run-dir", "other", "--output", "sweep"]
    assert main(["lr-find", *flags, "--range-steps", "30", "--from-rate", "1e-5"]) == 0
    printed = capsys.readouterr().out
    facts = json.loads(Path("sweep/lr_range.json").read_text())
    assert f"--learning-rate {facts['suggested']:g}" in printed
    assert facts["rates"][0] == pytest.approx(1e-5)
    steps = [b / a for a, b in zip(facts["rates"], facts["rates"][1:], strict=False)]
    assert steps == pytest.approx([1e5 ** (1 / 29)] * len(steps), rel=1e-4)
    with open("sweep/lr_range.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["rate"]) for row in rows] == facts["rates"]
    assert Path("sweep/lr_range.svg").read_text().startswith("<svg")
    assert sorted(p.name for p in Path().iterdir()) == [
        "run.yaml",
        "story.txt",
        "sweep",
    ]
    # What the first step sees is what a run sees: the same weights and rows.
    run = runs.train(steps=1, learning_rate=1e-5)
    assert run.first_loss == pytest.approx(facts["losses"][0], rel=1e-6)

    assert main(["lr-range", *flags, "--range-steps", "40"]) == 2  # nothing is lost
    assert "there already" in capsys.readouterr().err


@pytest.mark.thorough
def test_a_sweep_from_a_run_leaves_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = Runs(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    run = runs.train(steps=3)
    before = {f: f.read_bytes() for f in run.folder.rglob("*") if f.is_file()}
    flags = ["--range-steps", "12", "--to-rate", "1e-2", "--json"]
    for start in ("--resume", "--init-from"):
        data = [] if start == "--resume" else ["--train-data", str(runs.data)]
        more = ["--global-batch-size", "4"] if data else []
        main(["lr-range", start, str(run.folder), *flags, *data, *more])
        printed = capsys.readouterr()
        assert printed.out, printed.err
        facts = json.loads(printed.out)
        assert facts["losses"][0] < run.first_loss and len(facts["rates"]) == 12
    assert before == {f: f.read_bytes() for f in run.folder.rglob("*") if f.is_file()}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--from-rate 1e-2 --to-rate 1e-3", "does not rise"),
        ("--range-steps 3", "too few for a sweep"),
        ("--nproc 2", "one process"),
    ],
)
def test_what_is_no_sweep_is_refused(
    flags: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--lr-find", "--range-steps", "3"]) in (1, 2)
    assert "too few for a sweep" in capsys.readouterr().err
    assert main(["lr-range", "--preset", "debug", *flags.split()]) in (1, 2)
    assert words in capsys.readouterr().err


def test_two_sweeps_of_one_second_have_two_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lr_range, "time", stand_in(time, strftime=lambda form: "now"))
    first = lr_range._folder(None)
    first.mkdir(parents=True)
    assert [first.name, lr_range._folder(None).name] == ["now", "now-2"]
