"""kill -9 at each stage of writing a checkpoint, and of what comes before and after."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from fault_runs import FLAGS, die, killed_at, saved
from mechanisms import mechanism
from training import events, wait_until


def _half_a_file(path, tensors):
    """The tensors' file, cut in the middle, as the kill leaves it."""
    from safetensors.torch import save

    content = save(dict(tensors))
    with open(path, "wb") as file:
        file.write(content[: len(content) // 2])
        os.fsync(file.fileno())
    die()


def die_in_save(stage: str, step: int) -> None:
    """In the process of a run: kill it at a stage of saving so many steps."""
    from lumina.state import checkpoint, retention, writer
    from lumina.state.checkpoint import CheckpointStore

    write = CheckpointStore._write

    def at_stage(store, writing):
        if writing.state.step == step:
            if stage == "tensors":
                writer.write_tensors = _half_a_file
            elif stage == "manifest":
                writer.Manifest.write = lambda *_: die()
            elif stage == "verify":
                writer.open_checkpoint = lambda *_, **__: die()
            elif stage == "latest":
                checkpoint.write_pointer = lambda *_: die()
            elif stage == "prune":
                remove = retention.shutil.rmtree

                def half_removed(path, **options):
                    if Path(path).is_dir() and Path(path).name.startswith(".tmp-rem"):
                        next(Path(path).glob("*.safetensors")).unlink()
                        die()
                    remove(path, **options)

                retention.shutil.rmtree = half_removed
        write(store, writing)

    CheckpointStore._write = at_stage


STAGES = {"tensors": 4, "manifest": 4, "verify": 4, "latest": 4, "prune": 4}
"""Stage -> the step whose checkpoint was the last whole one that LATEST named."""


@mechanism(
    "killed while an old checkpoint is deleted",
    component="checkpoint",
    failure="SIGKILL with half the files of a superseded checkpoint deleted",
    recovery="resume",
    expected="what is half deleted is cleared and never taken for a checkpoint",
    case="prune",
)
@mechanism(
    "killed before LATEST",
    component="checkpoint",
    failure="SIGKILL after the checkpoint has its name, before LATEST names it",
    recovery="older checkpoint",
    expected="goes on from what LATEST names; the newer one is set aside, then made "
    "again",
    case="latest",
)
@mechanism(
    "killed before the last look",
    component="checkpoint",
    failure="SIGKILL with the manifest written and nothing yet read back",
    recovery="older checkpoint",
    expected="what was not verified never got its name; figures as undisturbed",
    case="verify",
)
@mechanism(
    "killed before the manifest",
    component="checkpoint",
    failure="SIGKILL with all tensors on disk and no manifest",
    recovery="older checkpoint",
    expected="the unfinished folder is cleared; figures as undisturbed",
    case="manifest",
)
@mechanism(
    "killed while tensors are written",
    component="checkpoint",
    failure="SIGKILL with half of a tensor file written",
    recovery="older checkpoint",
    expected="the unfinished folder is cleared; figures as undisturbed",
    case="tensors",
)
@pytest.mark.parametrize(
    "stage",
    [
        pytest.param(stage, marks=() if stage == "manifest" else pytest.mark.faults)
        for stage in STAGES
    ],
)
def test_a_save_that_is_killed_leaves_the_checkpoint_before(faulty, stage):
    keep = ["--save-total-limit", "1"] if stage == "prune" else []
    before = partial(die_in_save, stage, 4 if stage == "prune" else 6)
    assert faulty.ended(*keep, before=before)[0] == -9
    folder = faulty.folder / "run" / "checkpoints"
    assert (folder / "LATEST").read_text() == f"step-{STAGES[stage]:08d}\n"
    assert any(p.name.startswith(".tmp-") for p in folder.iterdir()) or (
        stage == "latest" and saved(faulty.folder / "run") == [2, 4, 6]
    )
    run = faulty.assert_recovered(*keep)
    assert events(run, "resumed")[0]["step"] == STAGES[stage]


@pytest.mark.faults
@mechanism(
    "killed in an evaluation",
    component="process",
    failure="SIGKILL while held-out data is evaluated",
    recovery="resume",
    expected="the steps since the checkpoint and the evaluation are made again",
)
def test_killed_in_an_evaluation(faulty):
    mark = faulty.folder / "evaluating."
    faulty.folder.mkdir(parents=True)
    running = faulty.trainings.start(
        "run", *FLAGS, ENDLESS_FROM="1", EVALUATING=str(mark)
    )
    assert wait_until(Path(f"{mark}0").exists, running)
    # A checkpoint is written behind the steps that follow it.
    assert wait_until(lambda: saved(faulty.folder / "run") == [2], running)
    running.kill()
    faulty.assert_recovered()


def die_in_the_report() -> None:
    """In the process of a run: kill it when all is trained and saved."""
    from lumina.train import finish

    finish.write_report = lambda *_, **__: die()


@pytest.mark.faults
@mechanism(
    "killed in the report",
    component="process",
    failure="SIGKILL after the last checkpoint, while the report is written",
    recovery="resume",
    expected="nothing is trained again; the run is finished and its numbers stay",
)
def test_killed_in_the_report(faulty):
    assert faulty.ended(before=die_in_the_report)[0] == -9
    run = faulty.folder / "run"
    before = (run / "metrics.jsonl").read_bytes()
    faulty.assert_recovered()
    assert (run / "metrics.jsonl").read_bytes() == before


def die_in_truncation() -> None:
    """In the process of a resume: kill it while rows are taken back."""
    from lumina.state.metrics import MetricsLog

    MetricsLog._replace = lambda *_: die()


@pytest.mark.faults
@mechanism(
    "killed while it is resumed",
    component="record",
    failure="SIGKILL after the rows past the checkpoint were copied beside, before "
    "they left metrics.jsonl",
    recovery="resume",
    expected="the next resume finds every row once",
)
def test_killed_while_rows_are_taken_back(faulty):
    faulty.copy()
    assert faulty.ended("--auto-resume", before=die_in_truncation)[0] == -9
    run = faulty.assert_recovered()
    assert len(list(run.glob("metrics.discarded-*.jsonl"))) == 2


@pytest.mark.faults
@mechanism(
    "killed again and again",
    component="process",
    failure="SIGKILL in every second step, nine lives in all",
    recovery="resume",
    expected="each life goes on from the checkpoint of the one before",
)
def test_killed_in_every_life(faulty):
    for step in (1, 3, 3, 5, 5, 7, 7, 7):
        code, _ = faulty.ended("--auto-resume", before=killed_at(step))
        assert code == -9
    faulty.assert_recovered()
