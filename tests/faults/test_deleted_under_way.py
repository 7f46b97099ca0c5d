"""Files and folders of a run are deleted, moved or emptied while it trains."""

from __future__ import annotations

import os
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest

from fault_runs import FLAGS, assert_sound, at_step, saved
from mechanisms import mechanism
from training import assert_same_run, events


def delete(*paths: Path) -> None:
    for path in paths:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@mechanism(
    "rows deleted under way",
    component="record",
    failure="metrics.jsonl is deleted while a run writes to it",
    recovery="make again",
    expected="it is written again with every row, those from before among them",
    case="metrics.jsonl",
)
@mechanism(
    "events deleted under way",
    component="record",
    failure="events.jsonl is deleted while a run writes to it",
    recovery="make again",
    expected="it is written again with every event",
    case="events.jsonl",
)
@mechanism(
    "all checkpoints deleted under way",
    component="checkpoint",
    failure="the folder of checkpoints is deleted while a run trains",
    recovery="go on",
    expected="the next checkpoint makes it anew; figures as undisturbed",
    case="checkpoints",
)
@mechanism(
    "old checkpoint deleted under way",
    component="checkpoint",
    failure="an older checkpoint is deleted while a run trains",
    recovery="go on",
    expected="nothing depends on it; figures as undisturbed",
    case="checkpoints/step-00000002",
)
@mechanism(
    "newest checkpoint deleted under way",
    component="checkpoint",
    failure="the checkpoint that LATEST names is deleted while a run trains",
    recovery="go on",
    expected="the next one takes its place; figures as undisturbed",
    case="checkpoints/step-00000004",
)
@mechanism(
    "LATEST deleted under way",
    component="checkpoint",
    failure="LATEST is deleted while a run trains",
    recovery="go on",
    expected="it is written again with the next checkpoint",
    case="checkpoints/LATEST",
)
@pytest.mark.parametrize(
    "name",
    [
        "metrics.jsonl",
        *(
            pytest.param(name, marks=pytest.mark.faults)
            for name in (
                "events.jsonl",
                "checkpoints",
                "checkpoints/step-00000002",
                "checkpoints/step-00000004",
                "checkpoints/LATEST",
            )
        ),
    ],
)
def test_a_run_goes_on_without_what_is_deleted(faulty, name):
    run = faulty.folder / "run"
    before = partial(at_step, 5, partial(delete, run / name))
    code, said = faulty.ended(before=before)
    assert code == 0, said
    assert_same_run(run, faulty.undisturbed)
    assert_sound(run)
    kinds = [event["step"] for event in events(run, "checkpoint_saved")]
    assert kinds == [2, 4, 6, 8]  # the events from before are there as well


@pytest.mark.faults
@mechanism(
    "run folder deleted under way",
    component="run folder",
    failure="the whole folder of a run is deleted while it trains",
    recovery="end at once",
    expected="E104; no half folder appears in its place, and the run can begin anew",
)
def test_a_run_folder_that_is_deleted_ends_the_run(faulty):
    run = faulty.folder / "run"
    code, said = faulty.ended(before=partial(at_step, 5, partial(delete, run)))
    assert code == 1 and "E104" in said and "Traceback" not in said
    assert not run.exists()
    faulty.assert_recovered()


@pytest.mark.faults
@mechanism(
    "run folder moved under way",
    component="run folder",
    failure="the folder of a run gets another name while it trains",
    recovery="end at once",
    expected="E104 at the next checkpoint; the moved run goes on where it was",
)
def test_a_run_folder_that_is_moved_ends_the_run(faulty):
    run, moved = faulty.folder / "run", faulty.folder / "moved"
    code, said = faulty.ended(
        before=partial(at_step, 5, partial(os.rename, run, moved))
    )
    assert code == 1 and "E104" in said and "Traceback" not in said
    assert not run.exists() and saved(moved) == [2, 4]
    faulty.assert_recovered(name="moved")


@pytest.mark.faults
@mechanism(
    "data deleted under way",
    component="data",
    failure="the files of the data are deleted after their tokens are stored",
    recovery="go on",
    expected="the tokens are what is trained on; figures as undisturbed",
)
def test_data_that_is_deleted_after_it_was_stored_is_not_missed(faulty, tmp_path):
    data = Path(shutil.copytree(faulty.trainings.data, tmp_path / "data"))
    faulty.trainings.data = data
    code, said = faulty.ended(before=partial(at_step, 3, partial(delete, data)))
    assert code == 0, said
    assert_same_run(faulty.folder / "run", faulty.undisturbed)


def cut_stores(cache: str) -> None:
    """Cut the tokens in the cache to nothing, under the map of the run."""
    for file in Path(cache).glob("stores/*/train/tokens.bin"):
        os.truncate(file, 0)


@pytest.mark.faults
@mechanism(
    "token store cut under way",
    component="token store",
    failure="the mapped file of tokens is cut to nothing while a run reads it",
    recovery="make again",
    expected="the system ends the process (SIGBUS); the resume says that the store is "
    "damaged, makes it again, and ends as undisturbed",
)
def test_a_mapped_store_that_is_cut(faulty, tmp_path):
    mapped = ["--data-loading", "sharded", "--prefetch-factor", "1"]
    own = {"LUMINA_CACHE": str(tmp_path / "cache")}
    before = partial(at_step, 3, partial(cut_stores, own["LUMINA_CACHE"]))
    code, said = faulty.ended(*mapped, before=before, **own)
    assert code == -signal.SIGBUS, said
    again = faulty.trainings.train("run", *FLAGS, "--auto-resume", *mapped, **own)
    assert events(again, "data_cache_damaged")
    assert_same_run(again, faulty.undisturbed)
    assert_sound(again)


@pytest.mark.faults
@mechanism(
    "cache deleted under way",
    component="cache",
    failure="the whole cache is deleted while a run trains from it",
    recovery="go on",
    expected="open files stay readable; the run and a later start are as undisturbed",
)
def test_a_cache_that_is_deleted(faulty, tmp_path):
    own = {"LUMINA_CACHE": str(tmp_path / "cache")}
    flags = ["--data-loading", "sharded"]
    before = partial(at_step, 3, partial(delete, tmp_path / "cache"))
    code, said = faulty.ended(*flags, before=before, **own)
    assert code == 0, said
    assert_same_run(faulty.folder / "run", faulty.undisturbed)
    again = faulty.trainings.train("again", *FLAGS, *flags, **own)
    assert_same_run(again, faulty.undisturbed)


STREAMED = [
    "--data-loading", "streaming", "--iterate", "--shuffle-buffer", "8",
    "--global-batch-size", "128", "--batch-size", "128", "--prefetch-factor", "1",
]  # fmt: skip
"""Several passes over the data, which is read again in each."""


def cut_files(folder: Path) -> None:
    for file in folder.glob("*.txt"):
        os.truncate(file, 100)


@mechanism(
    "streamed files cut under way",
    component="data",
    failure="the files are cut while a run streams them",
    recovery="refuse",
    expected="E002 names the file and both sizes; restored, the run goes on as "
    "undisturbed",
    case="cut_files",
)
@mechanism(
    "streamed files deleted under way",
    component="data",
    failure="the files are deleted while a run streams them",
    recovery="refuse",
    expected="E104 names the file; restored, the run goes on as undisturbed",
    case="delete",
)
@pytest.mark.faults
@pytest.mark.parametrize("act", [cut_files, delete], ids=lambda act: act.__name__)
def test_streamed_files_that_change(faulty, tmp_path, act):
    kept = faulty.trainings.data
    whole = faulty.trainings.train("whole", *FLAGS, *STREAMED)
    data = faulty.trainings.data = tmp_path / "data"
    shutil.copytree(kept, data)
    code, said = faulty.ended(*STREAMED, before=partial(at_step, 3, partial(act, data)))
    assert code and ("E002" if act is cut_files else "E104") in said, said
    assert "part-" in said and "Traceback" not in said
    shutil.rmtree(data, ignore_errors=True)
    shutil.copytree(kept, data)
    run = faulty.recover(*STREAMED)
    assert_same_run(run, whole)
    assert_sound(run)
