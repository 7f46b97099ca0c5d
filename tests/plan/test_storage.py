"""What a run takes of the disk, against what runs take."""

from __future__ import annotations

from pathlib import Path

import pytest

from lumina.cli.main import main
from lumina.plan.plan import Plan
from lumina.plan.storage import REPORT_BYTES, storage
from lumina.train import room_on_disk
from tiny_runs import Program, Runs, seen


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@pytest.mark.thorough
@pytest.mark.covers("MEM-28")
def test_what_a_run_leaves_on_disk_was_in_its_plan(
    tmp_path: Path,
) -> None:
    plans: list[Plan] = []

    def plan_of(program: Program, _: object) -> Plan:
        return program.plan

    with pytest.MonkeyPatch.context() as monkeypatch:
        runs = Runs(tmp_path, monkeypatch)
        options = {"steps": 12, "save_every_n_batches": 2, "save_total_limit": 2}
        run = runs.train(
            seen(plan_of, plans), **options, log_every_n_batches=1, metrics="full"
        )
        found = storage(plans[0])
        kept = [size_of(one) for one in (run.folder / "checkpoints").glob("step-*")]
        assert found["checkpoint"] == pytest.approx(max(kept), rel=0.3)
        assert len(kept) <= 4 and found["checkpoints"] == 4 * found["checkpoint"]
        assert found["optimizer states"] == pytest.approx(2 * found["weights"], rel=0.1)
        logs = size_of(run.folder) - size_of(run.folder / "checkpoints")
        assert logs < found["logs"] < logs + 2 * REPORT_BYTES
        rows = (run.folder / "metrics.jsonl").stat().st_size / 12
        assert rows == pytest.approx(1600, rel=0.5)
        monkeypatch.setattr(room_on_disk, "free_bytes", lambda path: 1000)
        said = runs.refused("E204", steps=2, optimizer_states_in="disk")
        assert "what lives on disk takes" in said


@pytest.mark.covers("MEM-28")
def test_a_plan_shows_what_goes_to_disk(capsys: pytest.CaptureFixture[str]) -> None:
    words = "plan --preset debug --steps 100 --save-every-n-batches 10 --show storage"
    assert main(words.split()) == 0
    shown = capsys.readouterr().out
    assert "with a backup" in shown and "5 at most" in shown
