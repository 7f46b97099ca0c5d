"""A second place for checkpoints."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from interleaved import at_first
from lumina.errors import LuminaError
from lumina.state import backup, retention
from lumina.state.backup import Backup
from lumina.state.metrics import MetricsLog, read_metrics
from lumina.state.reader import latest_good, step_folders
from lumina.state.run_directory import RunDirectory
from lumina.train import Trainer
from mechanisms import mechanism
from stand_ins import stand_in
from tiny_runs import Run, Runs, same


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path / "disk", monkeypatch)


@pytest.fixture(autouse=True)
def disk(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()


def trained(runs: Runs, **leaves: object) -> Run:
    base = {"steps": 4, "save_every_n_batches": 2, "backup_every_n_hours": 0.0}
    return runs.train(**base | leaves)


@mechanism(
    "disk lost",
    component="disk",
    failure="the run folder is deleted as a whole",
    recovery="resume",
    expected="goes on from the copy in --backup-dir",
)
@pytest.mark.covers("CKP-04: --backup-dir")
def test_a_run_whose_disk_is_lost_goes_on_from_its_backup(runs: Runs, tmp_path: Path):
    place = tmp_path / "elsewhere"
    whole = trained(runs, steps=8)
    half = trained(runs, backup_dir=str(place))
    name = half.folder.name
    shutil.rmtree(half.folder)
    copy = place / name
    config = runs.config(
        steps=8, save_every_n_batches=2, resume=str(copy), run_dir=None
    )
    result = Trainer(config).train()
    assert result.run_dir == copy
    more = Run(result, "")
    assert more.column("loss") == whole.column("loss")
    assert all(same(more.tensors[n], x) for n, x in whole.tensors.items())


@mechanism(
    "second place fails",
    component="disk",
    failure="--backup-dir lies below a file, or its disk has no room",
    recovery="go on",
    expected="an event says so; the run and its checkpoints are as without",
)
def test_a_place_that_fails_is_said_and_harms_nothing(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "file"
    file.write_text("no folder")
    run = trained(runs, backup_dir=str(file / "below"))
    failed = [event for event in run.events if event["kind"] == "backup_failed"]
    assert len(failed) == 2 and failed[0]["code"] == "E204"
    assert run.checkpoints == ["step-00000002", "step-00000004"]
    monkeypatch.setattr(backup, "free_bytes", lambda path: 10)
    full = trained(runs, backup_dir=str(tmp_path / "full"))
    failed = [event for event in full.events if event["kind"] == "backup_failed"]
    assert "has 10" in failed[0]["message"] and full.result.exit_code == 0


def test_the_copy_before_stays_until_the_new_one_is_whole(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = trained(runs)
    first, second = (run.folder / "checkpoints" / name for name in run.checkpoints)
    held = Backup(run.folder, tmp_path / "place", 1.0)
    assert held.due
    held.copy(first)
    copies = held.folder / "checkpoints"

    copytree = shutil.copytree

    def spoilt(source: Path, target: Path) -> None:
        copytree(source, target)
        file = next(target.glob("*.safetensors"))
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)

    with monkeypatch.context() as patch:
        patch.setattr(backup, "shutil", stand_in(shutil, copytree=spoilt))
        with pytest.raises(LuminaError, match="sha256"):
            held.copy(second)
    assert (copies / "LATEST").read_text().strip() == first.name
    assert (copies / first.name / "manifest.json").exists()
    held.copy(second)
    assert [path.name for path in copies.glob("step-*")] == [second.name]


def test_two_runs_of_one_name_keep_a_copy_each(runs: Runs, tmp_path: Path):
    """And a run that goes on in its own copy gets another beside it."""
    one, other = trained(runs), trained(runs)
    elsewhere = tmp_path / "elsewhere" / one.folder.name
    elsewhere.parent.mkdir()
    os.rename(other.folder, elsewhere)
    place = tmp_path / "place"
    copies = [Backup(folder, place, 0.0) for folder in (one.folder, elsewhere)]
    copies.append(Backup(place / one.folder.name, place, 0.0))
    newest = "checkpoints/step-00000004"
    for copy in copies:
        assert copy.due
        copy.copy(copy.run / newest)
    name = one.folder.name
    names = [copy.folder.name for copy in copies]
    assert names == [name, f"{name}-2", f"{name}-3"]
    for copy in copies:
        events = (copy.folder / "events.jsonl").read_bytes()
        assert events == (copy.run / "events.jsonl").read_bytes()
    again = Backup(one.folder, place, 0.0)
    again.copy(one.folder / newest)
    assert again.folder.name == name


def test_rows_that_are_archived_while_they_are_copied_are_in_the_copy(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = trained(runs)
    log = MetricsLog(run.folder / "metrics.jsonl", rotate_bytes=1)
    at_first(monkeypatch, backup, "archives", lambda *_: log.append({"step": 5}))
    held = Backup(run.folder, tmp_path / "place", 0.0)
    held.copy(run.folder / "checkpoints" / run.checkpoints[0])
    assert [row["step"] for row in read_metrics(held.folder)] == [1, 2, 3, 4]
    held.copy(run.folder / "checkpoints" / run.checkpoints[1])
    assert [row["step"] for row in read_metrics(held.folder)] == [1, 2, 3, 4, 5]


def test_a_copy_that_is_cut_off_between_two_names_is_put_back(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = trained(runs)
    newest = run.folder / "checkpoints" / run.checkpoints[1]
    held = Backup(run.folder, tmp_path / "place", 0.0)
    held.copy(newest)

    def die(source: Path, target: Path) -> None:
        if target.name == newest.name:
            raise KeyboardInterrupt
        os.rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(backup, "os", stand_in(os, rename=die))
        with pytest.raises(KeyboardInterrupt):
            held.copy(newest)
    with RunDirectory(held.folder).acquire(resume=True):
        assert latest_good(held.folder).name == newest.name


def test_a_copy_is_due_after_the_hours(runs: Runs, tmp_path: Path):
    run = trained(runs)
    held = Backup(run.folder, tmp_path / "place", 2.0, clock=lambda: 100_000.0)
    held.copy(run.folder / "checkpoints" / run.checkpoints[0])
    latest = held.folder / "checkpoints" / "LATEST"
    os.utime(latest, (100_000 - 7199,) * 2)
    assert not held.due
    os.utime(latest, (100_000 - 7200,) * 2)
    assert held.due
    os.utime(latest, (100_001,) * 2)  # by a file server whose clock is ahead
    assert held.due
    always = Backup(run.folder, tmp_path / "place", 0.0, clock=lambda: 100_000.0)
    assert always.due


def test_what_copies_leave_when_they_are_cut_off_goes_with_the_next(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = trained(runs)
    first, second = (run.folder / "checkpoints" / name for name in run.checkpoints)
    held = Backup(run.folder, tmp_path / "place", 0.0)
    held.copy(first)
    copies = held.folder / "checkpoints"

    def die(path: Path, ignore_errors: bool = False) -> None:
        if first.name in Path(path).name and Path(path).is_dir():
            next(Path(path).glob("*.safetensors")).unlink()
            raise KeyboardInterrupt  # while the copy before is being deleted
        shutil.rmtree(path, ignore_errors=ignore_errors)

    with monkeypatch.context() as patch:
        for module in (backup, retention):
            patch.setattr(module, "shutil", stand_in(shutil, rmtree=die))
        with pytest.raises(KeyboardInterrupt):
            held.copy(second)
    events: list[object] = []
    assert latest_good(held.folder, lambda *e, **more: events.append(e)) is not None
    assert [name for _, name in step_folders(copies)] == [copies / second.name]
    shutil.copytree(first, copies / f".tmp-{first.name}")  # one that came to nothing
    held.copy(second)
    assert events == []
    left = {path.name for path in copies.iterdir() if path.is_dir()}
    assert left == {second.name}


def test_a_training_that_goes_on_in_the_copy_keeps_its_checkpoints(
    runs: Runs, tmp_path: Path
):
    run = trained(runs)
    first, second = (run.folder / "checkpoints" / name for name in run.checkpoints)
    held = Backup(run.folder, tmp_path / "place", 0.0)
    held.copy(first)
    said: list[str] = []
    with RunDirectory(held.folder).acquire(resume=True):
        held.copy_if_due(second, lambda kind, *rest, **more: said.append(kind))
        assert latest_good(held.folder).name == first.name
    assert said == ["backup_failed"]
    held.copy(second)
    assert latest_good(held.folder).name == second.name
