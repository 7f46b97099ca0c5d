"""`lumina experience`: what is remembered, shown, exported and forgotten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lumina.cli.main import main
from lumina.state.experience.store import ExperienceStore
from remembered import a_record, outcomes
from reported_run import a_run


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A store of seven runs; the higher rate did better."""
    store = ExperienceStore(tmp_path / "experience.sqlite")
    for number in range(7):
        rate = (1e-3, 2e-3)[number % 2]
        options = a_record().options | {"learning_rate": rate}
        record = a_record(number, options=options, eval_loss=3.4 - 100 * rate)
        store.add((record, outcomes(number, better=2, worse=1)))
    return str(store.path)


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(["experience", *words]) == code
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_list(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "list", "--experience", file)
    assert "7 runs, 21 outcomes" in text
    assert "run-6" in text
    assert "0.69" in text  # (3 + 2.5) / (3 + 5) of the runs at 0.002
    found = json.loads(said(capsys, "list", "--experience", file, "--json"))
    assert [run["name"] for run in found["runs"]][:2] == ["run-6", "run-5"]
    best = found["strategies"][0]
    assert (best["learning_rate"], best["compared"]) == (0.002, 3)
    assert best["confidence"] == pytest.approx(5.5 / 8)


def test_explain(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "explain", "loss_spike", "--experience", file)
    assert "rollback" in text
    assert "0.67" in text  # (0.7 x 5 + 14) / (5 + 21)
    [found] = json.loads(said(capsys, "explain", "--experience", file, "--json"))
    assert (found["successes"], found["failures"]) == (14, 7)
    assert len(found["runs"]) == 7
    assert "no outcome of plateau" in said(
        capsys, "explain", "plateau", "--experience", file, code=1
    )


def test_export_and_import(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, other = str(tmp_path / "all.json"), str(tmp_path / "other.sqlite")
    assert "7 runs" in said(capsys, "export", out, "--experience", file)
    assert "E002" in said(capsys, "export", out, "--experience", file, code=2)
    assert "7 runs and 21 outcomes" in said(
        capsys, "import", out, "--experience", other
    )
    first, second = (
        said(capsys, "export", "--experience", one) for one in (file, other)
    )
    assert first == second == Path(out).read_text()


def test_forget(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    store = ExperienceStore(Path(file))
    where = ("--experience", file)
    assert "--yes" in said(capsys, "forget", "--run", "run-3", *where, code=2)
    assert len(store.all().runs) == 7
    text = said(capsys, "forget", "--run", "run-3", "0000", "--yes", *where)
    assert "7 runs and 21 outcomes" in text  # every id begins with these zeros
    assert store.all().runs == []
    assert "nothing to remove" in said(capsys, "forget", "--all", "--yes", *where)


def test_forget_one_run_or_an_anomaly(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store, where = ExperienceStore(Path(file)), ("--yes", "--experience", file)
    assert "1 run and 3 outcomes" in said(capsys, "forget", "--run", "run-3", *where)
    assert len(store.all().runs) == 6
    assert "18 outcomes" in said(capsys, "forget", "--anomaly", "loss_spike", *where)
    assert (len(store.all().runs), store.all().outcomes) == (6, [])
    assert "E304" in said(capsys, "forget", "--run", "run-3", *where, code=1)


def test_a_run_is_added_from_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, run = str(tmp_path / "experience.sqlite"), a_run(tmp_path / "run")
    for _ in range(2):
        text = said(capsys, "add", str(run), "--experience", file)
        assert "finished, 0 outcomes" in text
    [found] = ExperienceStore(Path(file)).all().runs
    assert (found.name, found.status, found.steps) == ("run", "finished", 800)
    assert found.failures == {"step_skipped": 1}
    assert len(found.curve) <= 60
    assert found.curve[-1][0] == 800 * 4096
    assert found.evaluations[-1][1] == found.eval_loss == found.best_eval_loss


def test_a_store_that_cannot_be_trusted_is_an_error_of_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "experience.sqlite"
    file.write_text("not a database")
    text = said(capsys, "list", "--experience", str(file), code=1)
    assert "E101" in text
    assert "E005" in said(capsys, "list", "--experience", "off", code=2)
