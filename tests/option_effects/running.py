"""Options of a run: where it lives, what it leaves, how it goes on."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest

from lumina.errors import LuminaError
from lumina.state.json_lines import read_json_lines
from lumina.train import saving as train_saving
from option_effects import shows
from reported_run import section
from tiny_runs import Runs, same


@shows("run_dir")
def directory(runs: Runs) -> None:
    for name in ("here", "there/below"):
        runs.train(run_dir=str(runs.folder / name), steps=1)
        assert (runs.folder / name / "metrics.jsonl").is_file()


@pytest.mark.covers(
    "TRN-01: --experiment-name",
    "CKP-16: naming by experiment",
    "CKP-09: resume_from_checkpoint",
    "CKP-09: resume_training",
    "CKP-09: by experiment name",
)
@shows("experiment_name")
def named(runs: Runs) -> None:
    runs.monkeypatch.chdir(runs.folder)
    for name in ("first", "second"):
        run = runs.train(run_dir=None, experiment_name=name, steps=1)
        assert run.folder.resolve() == runs.folder / "runs" / name
        assert len(run.rows) == 1
    before = sorted((runs.folder / "runs").iterdir())
    runs.refused("E002", run_dir=None, experiment_name="first", steps=1)
    assert sorted((runs.folder / "runs").iterdir()) == before
    for steps, asked in (
        (2, {"experiment_name": "first", "resume_training": True}),
        (3, {"resume_from_checkpoint": "runs/first"}),
    ):
        more = runs.train(run_dir=None, steps=steps, **asked)
        assert more.folder.resolve() == runs.folder / "runs" / "first"
        assert len(more.rows) == steps


@pytest.mark.covers("CKP-09: --resume PATH", "CKP-09: --auto-resume")
@shows("resume", "auto_resume")
def going_on(runs: Runs) -> None:
    """Two steps and two more are the four steps of one run, to the last bit."""
    whole = runs.train(steps=4)
    for option in ("resume", "auto_resume"):
        begun = runs.train(steps=2)
        place = {"run_dir": str(begun.folder)}
        runs.refused("E002", steps=4, **place)
        asked = {"resume": str(begun.folder)} if option == "resume" else {option: True}
        more = runs.train(steps=4, **place, **asked)
        assert more.column("loss") == whole.column("loss")
        assert same(more.tensor("embedding.weight"), whole.tensor("embedding.weight"))
    runs.refused("E304", resume=str(runs.folder / "nowhere"), run_dir=None)


@shows("branch_from")
def branching(runs: Runs) -> None:
    """A run of its own, which goes on from a checkpoint of another one."""
    begun = runs.train(steps=2)
    branch = runs.train(branch_from=str(begun.folder), steps=4)
    assert branch.folder != begun.folder and len(begun.rows) == 2
    assert branch.column("loss") == runs.train(steps=4).column("loss")


@pytest.mark.covers("CKP-04: --save-every-n-batches")
@shows("save_every_n_batches")
def saving(runs: Runs) -> None:
    end, often = runs.both(
        "save_every_n_batches", 0, 2, steps=5, save_total_limit=9, eval_fraction=0.0
    )
    assert end.checkpoints == ["step-00000005"]
    assert often.checkpoints == [f"step-0000000{n}" for n in (2, 4, 5)]


@pytest.mark.covers("CKP-04: save_every_n_hours")
@shows("save_every_n_hours")
def saving_by_the_clock(runs: Runs) -> None:
    """A clock on which every step takes half an hour."""
    base = {"steps": 6, "save_every_n_batches": 0, "save_total_limit": 9}
    plain = runs.train(**base, eval_fraction=0.0)
    assert plain.checkpoints == ["step-00000006"]
    seconds = itertools.count(0, 1800)
    with runs.monkeypatch.context() as patch:
        patch.setattr(train_saving, "time", SimpleNamespace(monotonic=seconds.__next__))
        hourly = runs.train(**base, eval_fraction=0.0, save_every_n_hours=1.0)
    assert hourly.checkpoints[-1] == "step-00000006"
    assert 2 <= len(hourly.checkpoints) <= 4, hourly.checkpoints
    assert hourly.column("loss") == plain.column("loss")


@pytest.mark.covers("CKP-04: --backup-dir", "CKP-04: --backup-every-n-hours")
@shows("backup_dir", "backup_every_n_hours")
def second_place(runs: Runs) -> None:
    place = runs.folder / "backups"
    base = {"steps": 5, "save_every_n_batches": 2, "backup_dir": str(place)}
    rare = runs.train(**base)  # by default every six hours: the first one only
    folder = place / rare.folder.name
    names = [path.name for path in (folder / "checkpoints").glob("step-*")]
    assert names == ["step-00000002"]
    often = runs.train(**base, backup_every_n_hours=0.0)
    folder = place / often.folder.name
    names = [path.name for path in (folder / "checkpoints").glob("step-*")]
    assert names == ["step-00000005"]


@pytest.mark.covers("CKP-06: --best-metric")
@shows("best_metric", "best_is")
def best(runs: Runs) -> None:
    base = {"steps": 6, "eval_every_n_batches": 1, "save_total_limit": 9}
    by_loss = runs.train(**base)
    by_accuracy = runs.train(**base, best_metric="eval_accuracy")
    worst = runs.train(**base, best_is="highest")
    for run, key, choose in (
        (by_loss, "eval_loss", min),
        (by_accuracy, "eval_accuracy", max),
        (worst, "eval_loss", max),
    ):
        found = {row["step"]: row[key] for row in run.rows}
        wanted = choose(found, key=found.get)
        best = (run.folder / "checkpoints" / "BEST").read_text().strip()
        assert best == f"step-{wanted:08d}", (key, found)
    with pytest.raises(LuminaError, match="eval_accuracy") as caught:
        runs.train(**base, best_metric="eval_bleu")
    assert caught.value.code == "E005"


@pytest.mark.covers("CKP-05: --save-total-limit")
@shows("save_total_limit")
def retention(runs: Runs) -> None:
    often = {"save_every_n_batches": 1, "steps": 5, "eval_fraction": 0.0}
    one, three = runs.both("save_total_limit", 1, 3, **often)
    assert one.checkpoints == ["step-00000005"]
    assert three.checkpoints == [f"step-0000000{n}" for n in (3, 4, 5)]


@pytest.mark.covers("MON-15: --log-every-n-batches", "MON-12: log_every_n_steps")
@shows("log_every_n_batches")
def lines(runs: Runs) -> None:
    def steps(text: str) -> int:
        return sum("loss" in line and "/s" in line for line in text.splitlines())

    every, few = runs.both("log_every_n_batches", 1, 4, steps=8, eval_fraction=0.0)
    assert steps(every.printed) - steps(few.printed) >= 5, few.printed


@shows("sample_every_n_batches")
def samples_on_the_way(runs: Runs) -> None:
    """Samples are kept as the run goes on, and do not change what it learns."""
    end, often = runs.both("sample_every_n_batches", 0, 2, steps=5, report_samples=1)
    steps = [
        [row["step"] for row in read_json_lines(run.folder / "samples.jsonl")]
        for run in (end, often)
    ]
    assert steps == [[5], [2, 4, 5]]
    assert section(often.folder, "samples").count("<pre>") == 3
    assert end.column("loss") == often.column("loss")
    assert same(end.tensor("embedding.weight"), often.tensor("embedding.weight"))


@shows("report_samples")
def samples(runs: Runs) -> None:
    def shown(folder: Path) -> int:
        return section(folder, "samples").count("<pre>")

    none, two = runs.both("report_samples", 0, 2, steps=2)
    assert (shown(none.folder), shown(two.folder)) == (0, 2)
