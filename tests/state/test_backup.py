"""A second place for checkpoints."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from lumina.errors import LuminaError
from lumina.state import backup
from lumina.state.backup import Backup
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


def test_a_copy_is_due_after_the_hours(runs: Runs, tmp_path: Path):
    run = trained(runs)
    held = Backup(run.folder, tmp_path / "place", 2.0, clock=lambda: 100_000.0)
    held.copy(run.folder / "checkpoints" / run.checkpoints[0])
    latest = held.folder / "checkpoints" / "LATEST"
    os.utime(latest, (100_000 - 7199,) * 2)
    assert not held.due
    os.utime(latest, (100_000 - 7200,) * 2)
    assert held.due
