"""A disk that is too full for the checkpoints is noticed before the first step."""

from __future__ import annotations

from pathlib import Path

import pytest

from lumina.train import room_on_disk
from tiny_runs import Runs


def bytes_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


@pytest.mark.covers("TRN-37: pre-flight validation")
def test_no_room_is_said_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        runs = Runs(tmp_path, monkeypatch)
        run = runs.train(steps=2, save_every_n_batches=1)
        (newest,) = (run.folder / "checkpoints").glob("step-00000002")

        def room(size: int) -> None:
            monkeypatch.setattr(room_on_disk, "free_bytes", lambda path: size)

        room(1000)
        said = runs.refused("E204", steps=2, save_every_n_batches=1)
        assert "could not be kept" in said
        # One fits, and five would not.
        room(2 * bytes_of(newest))
        few = runs.train(steps=2, save_every_n_batches=1)
        (event,) = (e for e in few.events if e["kind"] == "little_room_on_disk")
        estimate, real = event["data"]["checkpoint_bytes"], bytes_of(newest)
        assert 0.7 * real < estimate < 1.1 * real
        assert "little_room_on_disk" not in [e["kind"] for e in run.events]
