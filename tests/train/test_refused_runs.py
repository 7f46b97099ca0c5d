"""A run that is refused before its first step leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from lumina import Trainer
from lumina.errors import LuminaError
from lumina.train import job
from training import assert_ranks_end, start_ranks

# Query, key and value share one matrix in memory: a third of it cannot be frozen.
HALF = ("blocks.*.attention.q.weight",)


def refused(config) -> LuminaError:
    with pytest.raises(LuminaError) as caught:
        Trainer(config).train()
    return caught.value


@pytest.mark.parametrize("patterns", [("no.such.*",), HALF, ("*",)])
def test_freeze_that_cannot_be_begins_no_run(tiny_config, tmp_path, patterns):
    error = refused(tiny_config.replace(freeze=patterns))
    assert error.code in ("E002", "E005")
    assert not (tmp_path / "run").exists()


def test_folders_on_the_way_go_too_where_they_were_made(tiny_config, tmp_path):
    run = tmp_path / "a" / "b" / "run"
    error = refused(tiny_config.replace(freeze=HALF, run_dir=str(run)))
    assert "share one matrix" in str(error)
    assert not (tmp_path / "a").exists()


def test_a_run_that_is_named_by_the_time_goes_too(tiny_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(tiny_config.replace(freeze=HALF, run_dir=None))
    assert not (tmp_path / "runs").exists()


def test_other_runs_and_an_empty_folder_stay(tiny_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "runs" / "other"
    other.mkdir(parents=True)
    refused(tiny_config.replace(freeze=HALF, run_dir=None))
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["other"]
    refused(tiny_config.replace(freeze=HALF, run_dir=str(other)))
    assert list(other.iterdir()) == []


@pytest.mark.parametrize("code", ["E005", "E303"])
@pytest.mark.parametrize("door", ["begin", "configure_torch", "Loop"])
def test_any_other_refusal_leaves_nothing(
    tiny_config, tmp_path, monkeypatch, code, door
):
    def refuses(*_, **__):
        raise LuminaError(code, "no", "another one")

    monkeypatch.setattr(job, door, refuses)
    assert refused(tiny_config).code == code
    assert not (tmp_path / "run").exists()


def test_a_want_of_memory_is_no_refusal(tiny_config, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise LuminaError("E201", "no room", "less")

    monkeypatch.setattr(job, "begin", fails)
    refused(tiny_config)
    assert "failed" in Path(tmp_path / "run" / "status.json").read_text()


def test_a_run_that_was_there_before_stays(tiny_config, tmp_path, monkeypatch):
    Trainer(tiny_config.replace(steps=4)).train()
    before = sorted(path.name for path in (tmp_path / "run").rglob("*"))

    def refuses(*_, **__):
        raise LuminaError("E303", "no", "another one")

    monkeypatch.setattr(job, "go_on", refuses)
    refused(tiny_config.replace(steps=8, auto_resume=True))
    after = sorted(path.name for path in (tmp_path / "run").rglob("*"))
    assert set(before) <= set(after)


@pytest.mark.thorough
def test_two_ranks_that_are_refused_leave_nothing(tiny_config, tmp_path):
    changes = {"freeze": HALF, "batch_size": 2, "run_dir": str(tmp_path / "a" / "run")}
    file = tmp_path / "settings.yaml"
    tiny_config.replace(**changes).save(file)
    store, running = start_ranks(
        ["train", "--config-file", str(file)], tmp_path / "ranks"
    )
    assert_ranks_end(running, 2)
    assert "E005" in running[0].output and "Traceback" not in running[1].output
    assert not (tmp_path / "a").exists()
    del store
