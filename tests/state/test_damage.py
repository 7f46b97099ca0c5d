"""Every way a checkpoint can be spoilt is noticed, named, and survived."""

from __future__ import annotations

import json
import os
import random
import shutil

import pytest

from lumina.errors import LuminaError
from lumina.state.checkpoint import CheckpointStore, latest_good, open_checkpoint
from lumina.state.manifest import _digest_of
from mechanisms import mechanism
from states import Events, assert_state_is, make_state

FILES = ("manifest.json", "state.json", "model.safetensors", "optimizer.safetensors")


@pytest.fixture
def run(tmp_path):
    """A run with good checkpoints at steps 1 and 2."""
    store = CheckpointStore(tmp_path / "run")
    for step in (1, 2):
        store.save(make_state(step))
    store.close()
    return tmp_path / "run"


def truncate(path):
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)


def flip_bit(path, place=None):
    content = bytearray(path.read_bytes())
    place = random.Random(path.name).randrange(len(content)) if place is None else place
    content[place] ^= 0x10
    path.write_bytes(content)


def append(path):
    with open(path, "ab") as file:
        file.write(b"\0")


def empty(path):
    path.write_bytes(b"")


def swap(path):
    """The same file of the other checkpoint: intact, but not this step's."""
    shutil.copy(path.parent.with_name("step-00000001") / path.name, path)


def zero(path):
    """What a file system gives for a block that never reached the device."""
    path.write_bytes(b"\0" * path.stat().st_size)


def link(path):
    """A link to an intact copy elsewhere: not a file of this run."""
    elsewhere = path.parents[3] / path.name
    shutil.move(path, elsewhere)
    path.symlink_to(elsewhere)


def folder(path):
    path.unlink()
    path.mkdir()


def pipe(path):
    path.unlink()
    os.mkfifo(path)


DAMAGES = (truncate, flip_bit, append, empty, swap, zero, link, folder, pipe, os.unlink)


@mechanism(
    "link in the place of a file",
    component="checkpoint",
    failure="a file of the newest checkpoint is a link to a copy elsewhere",
    recovery="older checkpoint",
    expected="E303; nothing outside the checkpoint is read",
    case="link-model.safetensors",
)
@mechanism(
    "file of another step",
    component="checkpoint",
    failure="a file of the newest checkpoint is an intact one of another step",
    recovery="older checkpoint",
    expected="E303; weights of one step are never mixed with moments of another",
    case="swap-model.safetensors",
)
@mechanism(
    "named pipe in the place of a file",
    component="checkpoint",
    failure="a file of the newest checkpoint is a pipe, which blocks a reader",
    recovery="older checkpoint",
    expected="E303 names the file, and nothing waits for it",
    case="pipe-model.safetensors",
)
@mechanism(
    "blocks that were never written",
    component="checkpoint",
    failure="a file of the newest checkpoint is zeros, as a lost block leaves it",
    recovery="older checkpoint",
    expected="E303 names the file; the one before is used",
    case="zero-model.safetensors",
)
@pytest.mark.faults
@pytest.mark.covers(
    "CKP-07: integrity (hash)", "CKP-07: E303", "CFG-11: E303 checkpoint"
)
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_file_is_named_and_the_older_checkpoint_used(run, damage, name):
    newest = run / "checkpoints" / "step-00000002"
    damage(newest / name)
    with pytest.raises(LuminaError) as caught:
        open_checkpoint(newest)
    assert caught.value.code == "E303"
    # A swapped manifest is whole; the folder it lies in is what does not fit.
    assert name in caught.value.message or (damage, name) == (swap, "manifest.json")
    if damage in (truncate, append, empty) and name != "manifest.json":
        assert "bytes, not" in caught.value.message  # known without reading it all
    events = Events()
    good = latest_good(run, events.emit)
    assert_state_is(open_checkpoint(good).state(), make_state(1))
    (event,) = events
    assert (event["kind"], event["severity"]) == ("checkpoint_refused", "warning")
    assert event["code"] == "E303" and event["data"]["checkpoint"] == "step-00000002"
    assert newest.is_dir()  # kept, for whoever wants to mend it


@pytest.mark.faults
def test_any_single_flipped_bit_is_noticed(run):
    newest = run / "checkpoints" / "step-00000002"
    chance = random.Random(0)
    for name in FILES:
        original = (newest / name).read_bytes()
        for _ in range(60):
            content = bytearray(original)
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            (newest / name).write_bytes(content)
            try:
                found = open_checkpoint(newest).state()
            except LuminaError as error:
                assert error.code == "E303"
            else:  # white space of the manifest, say: then nothing may differ
                assert name == "manifest.json"
                assert_state_is(found, make_state(2))
        (newest / name).write_bytes(original)
    assert_state_is(open_checkpoint(newest).state(), make_state(2))


def forge(folder, edit):
    """Change a manifest as somebody would who also mends its digest."""
    path = folder / "manifest.json"
    values = json.loads(path.read_text())
    del values["digest"]
    edit(values)
    values["digest"] = _digest_of(values)
    path.write_text(json.dumps(values))


def rename_file(values, new):
    values["files"][new] = values["files"].pop("model.safetensors")
    for entry in values["tensors"].values():
        entry["file"] = new


FORGERIES = {
    "parent folder": lambda v: rename_file(v, "../step-00000001/model.safetensors"),
    "absolute path": lambda v: rename_file(v, "/etc/passwd"),
    "back slash": lambda v: rename_file(v, "..\\model.safetensors"),
    "hidden name": lambda v: rename_file(v, ".model.safetensors"),
    "unlisted file": lambda v: v["tensors"]["scalar"].update(file="other.safetensors"),
    "no state.json": lambda v: v["files"].pop("state.json"),
    "wrong shape": lambda v: v["tensors"]["scalar"].update(shape=[2**50]),
    "negative shape": lambda v: v["tensors"]["scalar"].update(shape=[-1]),
    "wrong dtype": lambda v: v["tensors"]["scalar"].update(dtype="F32"),
    "tensor too many": lambda v: v["tensors"].update(x=v["tensors"]["scalar"]),
    "tensor missing": lambda v: v["tensors"].pop("scalar"),
    "slot missing": lambda v: v["optimizer"].pop("exp_avg"),
    "wrong step": lambda v: v.update(step=3),
    "step no number": lambda v: v.update(step="2"),
    "files no object": lambda v: v.update(files=[]),
    "no tensors": lambda v: v.pop("tensors"),
    "newer format": lambda v: v.update(format_version="2.0"),
    "ancient format": lambda v: v.update(format_version="0.9"),
    "odd format": lambda v: v.update(format_version=1.0),
    "no format": lambda v: v.pop("format_version"),
}


@pytest.mark.faults
@pytest.mark.covers("CKP-07: integrity (hash)")
@pytest.mark.parametrize("edit", FORGERIES.values(), ids=FORGERIES)
def test_a_forged_manifest_is_refused(run, edit):
    newest = run / "checkpoints" / "step-00000002"
    forge(newest, edit)
    with pytest.raises(LuminaError) as caught:
        open_checkpoint(newest)
    assert caught.value.code == "E303"
    assert latest_good(run) == run / "checkpoints" / "step-00000001"


@pytest.mark.faults
@pytest.mark.parametrize("place", ["../model.safetensors", "{absolute}"])
def test_a_manifest_cannot_lead_to_a_file_elsewhere_even_a_fitting_one(run, place):
    newest = run / "checkpoints" / "step-00000002"
    shutil.move(newest / "model.safetensors", newest.parent / "model.safetensors")
    place = place.format(absolute=newest.parent / "model.safetensors")
    forge(newest, lambda values: rename_file(values, place))
    with pytest.raises(LuminaError, match=r"E303.*is not the name"):
        open_checkpoint(newest)


def test_a_checkpoint_under_the_name_of_another_step_is_refused(run):
    newest = run / "checkpoints" / "step-00000002"
    with pytest.raises(LuminaError, match=r"E303.*it holds step 2"):
        open_checkpoint(newest.rename(newest.with_name("step-00000003")))
    forge(newest.with_name("step-00000003"), lambda values: values.update(step=3))
    with pytest.raises(LuminaError, match=r"E303.*state\.json.*of step 2, not 3"):
        open_checkpoint(newest.with_name("step-00000003"))


@pytest.mark.parametrize("text", ["[1]", "null", "{", '{"a": NaN}', "[" * 10**5, "ÿ"])
def test_a_manifest_that_is_no_object_is_refused(run, text):
    newest = run / "checkpoints" / "step-00000002"
    (newest / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(LuminaError, match=r"E303.*manifest\.json"):
        open_checkpoint(newest)


def test_checking_sizes_only_sees_what_headers_show(run):
    newest = run / "checkpoints" / "step-00000002"
    flip_bit(newest / "model.safetensors", -1)
    open_checkpoint(newest, verify="size")
    truncate(newest / "model.safetensors")
    with pytest.raises(LuminaError, match="E303"):
        open_checkpoint(newest, verify="size")


@pytest.mark.covers("CFG-11: E303 checkpoint")
def test_checkpoints_but_none_good_is_an_error_not_a_fresh_start(run):
    for step in ("step-00000001", "step-00000002"):
        truncate(run / "checkpoints" / step / "model.safetensors")
    events = Events()
    with pytest.raises(LuminaError, match="none of the 2 checkpoints") as caught:
        latest_good(run, events.emit)
    assert caught.value.code == "E303" and caught.value.hint
    assert len(events) == 2


@pytest.mark.parametrize(
    "latest", [None, b"", b"step-00000009\n", b"../elsewhere\n", b"\xff\xfe"]
)
def test_a_spoilt_latest_does_not_hide_the_newest(run, latest):
    pointer = run / "checkpoints" / "LATEST"
    pointer.unlink() if latest is None else pointer.write_bytes(latest)
    assert latest_good(run) == run / "checkpoints" / "step-00000002"


def test_latest_wins_over_a_higher_step(run):
    (run / "checkpoints" / "LATEST").write_text("step-00000001\n")
    assert latest_good(run) == run / "checkpoints" / "step-00000001"


def test_a_missing_folder_is_not_a_damaged_one(tmp_path):
    with pytest.raises(LuminaError, match="E104"):
        open_checkpoint(tmp_path / "step-00000001")


def test_saving_goes_on_beside_a_damaged_checkpoint_and_keeps_it(run):
    empty(run / "checkpoints" / "step-00000001" / "manifest.json")
    store = CheckpointStore(run, keep=1)
    store.save(make_state(3))
    store.close()
    left = sorted(p.name for p in (run / "checkpoints").glob("step-*"))
    assert left == ["step-00000001", "step-00000003"]
