"""Damaged checkpoints and full disks, met through the command."""

from __future__ import annotations

import resource
import shutil
import subprocess

import pytest

from mechanisms import mechanism
from training import (
    DENSE,
    Trainings,
    assert_same_run,
    checkpoints,
    digests,
    events,
    start,
    trajectory,
    words,
)

FLAGS = [*DENSE, *words("--precision fp32 --save-every-n-batches 4")]


@pytest.fixture(scope="module")
def whole(trainings):
    """Twelve steps, never stopped."""
    return trainings.train("whole", *FLAGS, "--steps", "12")


@pytest.fixture(scope="module")
def half(trainings):
    """The same run stopped for good after checkpoints 4 and 8: to be copied."""
    whole = trainings.train("half", *FLAGS, "--steps", "12")
    shutil.rmtree(whole / "checkpoints" / "step-00000012")
    (whole / "checkpoints" / "LATEST").write_text("step-00000008\n")
    (whole / "status.json").unlink()
    assert checkpoints(whole) == ["step-00000004", "step-00000008"]
    return whole


@pytest.fixture
def stopped(half, tmp_path, trainings):
    """A copy of `half` to damage, and trainings beside it."""
    shutil.copytree(half, tmp_path / "run")
    return Trainings(tmp_path, trainings.data)


def newest(folder):
    return folder / "checkpoints" / "step-00000008"


def tensors(checkpoint):
    return max(checkpoint.glob("*.safetensors"), key=lambda p: p.stat().st_size)


def truncated(checkpoint):
    file = tensors(checkpoint)
    with open(file, "r+b") as f:
        f.truncate(file.stat().st_size // 2)


def bit_flipped(checkpoint):
    file = tensors(checkpoint)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    file.write_bytes(content)


def without_a_file(checkpoint):
    tensors(checkpoint).unlink()


def emptied(checkpoint):
    tensors(checkpoint).write_bytes(b"")


def without_a_manifest(checkpoint):
    (checkpoint / "manifest.json").unlink()


def with_broken_state(checkpoint):
    file = checkpoint / "state.json"
    file.write_text(file.read_text().replace('"tokens"', '"tokenz"'))


DAMAGES = [
    truncated,
    bit_flipped,
    without_a_file,
    emptied,
    without_a_manifest,
    with_broken_state,
]


@mechanism(
    "state spoilt",
    component="checkpoint",
    failure="state.json of the newest checkpoint, with its journal, has other bytes",
    recovery="older checkpoint",
    expected="told by an event (E303); figures as undisturbed",
    case="with_broken_state",
)
@mechanism(
    "manifest gone",
    component="checkpoint",
    failure="the manifest of the newest checkpoint was deleted",
    recovery="older checkpoint",
    expected="told by an event (E303); figures as undisturbed",
    case="without_a_manifest",
)
@mechanism(
    "tensors emptied",
    component="checkpoint",
    failure="a file of the newest checkpoint has no bytes",
    recovery="older checkpoint",
    expected="told by an event (E303); figures as undisturbed",
    case="emptied",
)
@mechanism(
    "tensors gone",
    component="checkpoint",
    failure="a file of the newest checkpoint was deleted",
    recovery="older checkpoint",
    expected="told by an event (E303); figures as undisturbed",
    case="without_a_file",
)
@mechanism(
    "bit flipped",
    component="checkpoint",
    failure="one bit of the tensors of the newest checkpoint is flipped",
    recovery="older checkpoint",
    expected="told by an event (E303); figures as undisturbed",
    case="bit_flipped",
)
@mechanism(
    "tensors cut",
    component="checkpoint",
    failure="the largest file of the newest checkpoint is cut in half",
    recovery="older checkpoint",
    expected="told by an event (E303); figures as undisturbed",
    case="truncated",
)
@pytest.mark.faults
@pytest.mark.covers("CKP-07: integrity (hash)", "CKP-13: recovery from crash")
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__)
def test_a_damaged_checkpoint_is_passed_over(stopped, whole, damage):
    run = stopped.folder / "run"
    damage(newest(run))
    good = digests(run, 4)
    before = (newest(run) / "state.json").exists()
    found = stopped.train("run", *FLAGS, "--steps", "12", "--auto-resume")
    assert trajectory(found) == trajectory(whole)
    assert digests(found, 12) == digests(whole, 12)
    refused = events(found, "checkpoint_refused")
    assert [(e["code"], e["data"]["checkpoint"]) for e in refused] == [
        ("E303", "step-00000008")
    ]
    assert events(found, "resumed")[0]["step"] == 4
    assert digests(found, 4) == good
    assert before and (found / "metrics.discarded-1.jsonl").exists()


@mechanism(
    "all checkpoints damaged",
    component="checkpoint",
    failure="one bit of every checkpoint is flipped",
    recovery="refuse",
    expected="E303; no fresh start, and no file of the run is changed",
)
@pytest.mark.faults
@pytest.mark.parametrize("how", [["--auto-resume"], ["--resume"]], ids=str)
def test_with_all_of_them_damaged_the_run_is_refused_and_left_alone(stopped, how):
    run = stopped.folder / "run"
    for path in (run / "checkpoints").glob("step-*"):
        bit_flipped(path)
    names = checkpoints(run)
    rows = (run / "metrics.jsonl").read_bytes()
    if how == ["--resume"]:
        how = ["--resume", str(run)]
    running = stopped.start("run", *FLAGS, "--steps", "12", *how)
    assert running.wait() == 1
    assert "E303" in running.output and "step-00000004" in running.output
    assert "Traceback" not in running.output
    assert checkpoints(run) == names
    assert (run / "metrics.jsonl").read_bytes() == rows
    assert len(events(run, "checkpoint_refused")) == 2
    assert events(run, "run_failed")[-1]["code"] == "E303"


@mechanism(
    "damaged checkpoint named",
    component="checkpoint",
    failure="the checkpoint that --resume names is cut",
    recovery="refuse",
    expected="E303; no other one is taken in its place",
)
@pytest.mark.faults
def test_a_damaged_checkpoint_that_was_asked_for_by_name_is_refused(stopped):
    run = stopped.folder / "run"
    truncated(newest(run))
    log = stopped.folder / "log"
    running = start(["train", "--resume", str(newest(run))], log)
    assert running.wait() == 1
    assert "E303" in running.output and "Traceback" not in running.output
    assert checkpoints(run) == ["step-00000004", "step-00000008"]


def full_from_the_second():
    """In the process of a run: from the second checkpoint on, files may not grow."""
    from lumina.state.checkpoint import CheckpointStore

    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    save = CheckpointStore.save

    def limited(self, state, *args, **kwargs):
        if state.step > 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
        return save(self, state, *args, **kwargs)

    CheckpointStore.save = limited


@mechanism(
    "quota met in a save",
    component="disk",
    failure="files may not grow past a limit (RLIMIT_FSIZE) while a checkpoint is "
    "written",
    recovery="save and end",
    expected="E204; the older checkpoint stays and is gone on from; figures as "
    "undisturbed",
)
@pytest.mark.faults
@pytest.mark.covers("CKP-13: atomic writing")
def test_no_room_for_a_checkpoint_ends_the_run_and_leaves_the_older_one(
    trainings, whole
):
    """Files may not grow past what a checkpoint needs: a quota, met in mid-save."""
    flags = [*FLAGS, "--steps", "12", "--auto-resume"]
    full = trainings.start("full", *flags, before=full_from_the_second)
    assert full.wait() == 1, full.output
    assert "E204" in full.output and "Traceback" not in full.output
    run = trainings.folder / "full"
    assert checkpoints(run) == ["step-00000004"]
    assert not list((run / "checkpoints").glob(".tmp*"))
    assert "E204" in [e["code"] for e in events(run, "checkpoint_failed")]
    assert events(run, "run_failed")[-1]["code"] == "E204"
    # Room again: it goes on where the older checkpoint stands.
    assert_same_run(trainings.train("full", *flags), whole)


@mechanism(
    "disk full",
    component="disk",
    failure="a small file system (tmpfs) fills up: metrics, events and status have no "
    "room either",
    recovery="refuse",
    expected="E204; what was saved is gone on from elsewhere; figures as undisturbed",
)
@pytest.mark.faults
def test_a_file_system_that_fills_up_during_training(trainings, whole, tmp_path):
    """Metrics, events and status have no room either; what was saved stays."""
    mount = tmp_path / "small"
    mount.mkdir()
    tried = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3000k", "lumina-test", str(mount)],
        capture_output=True,
    )
    if tried.returncode:
        pytest.skip("no permission to mount a small file system")
    try:
        small = Trainings(mount, trainings.data)
        log = tmp_path / "log"
        flags = [*FLAGS, "--steps", "12", "--auto-resume"]
        running = start(small.command("run", *flags), log)
        assert running.wait() == 1, running.output
        assert "E204" in running.output and "Traceback" not in running.output
        saved = checkpoints(mount / "run")
        assert saved
        kept = Trainings(tmp_path, trainings.data)
        shutil.copytree(mount / "run", tmp_path / "run")
        assert_same_run(kept.train("run", *flags), whole)
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_file_size_limits_work_here():
    """Otherwise the test above would show nothing."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
