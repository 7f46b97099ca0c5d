"""Options of a run: where it lives, what it leaves, how it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from option_effects import shows
from tiny_runs import Runs, same


@shows("run_dir")
def directory(runs: Runs) -> None:
    for name in ("here", "there/below"):
        runs.train(run_dir=str(runs.folder / name), steps=1)
        assert (runs.folder / name / "metrics.jsonl").is_file()


@pytest.mark.covers("TRN-01: --experiment-name", "CKP-16: naming by experiment")
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


@pytest.mark.covers("CKP-04: --save-every-n-batches")
@shows("save_every_n_batches")
def saving(runs: Runs) -> None:
    end, often = runs.both(
        "save_every_n_batches", 0, 2, steps=5, save_total_limit=9, eval_fraction=0.0
    )
    assert end.checkpoints == ["step-00000005"]
    assert often.checkpoints == [f"step-0000000{n}" for n in (2, 4, 5)]


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


@shows("report_samples")
def samples(runs: Runs) -> None:
    def shown(folder: Path) -> int:
        page = (folder / "report.html").read_text()
        return page.partition("<h2>Samples</h2>")[2].count("<pre>")

    none, two = runs.both("report_samples", 0, 2, steps=2)
    assert (shown(none.folder), shown(two.folder)) == (0, 2)
