from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time

import pytest
import torch
from safetensors.torch import load_file

from lumina.errors import LuminaError
from lumina.state import retention, writer
from lumina.state.checkpoint import CheckpointStore, latest_good, open_checkpoint
from stand_ins import stand_in
from states import Events, assert_state_is, make_state


def steps_of(run):
    return sorted(int(p.name[5:]) for p in (run / "checkpoints").glob("step-*"))


def pointer(run, name):
    return (run / "checkpoints" / name).read_text().strip()


@pytest.fixture
def events():
    return Events()


@pytest.fixture
def store(tmp_path, events):
    store = CheckpointStore(tmp_path, keep=2, on_event=events.emit)
    yield store
    store.close()


@pytest.mark.covers(
    "CKP-02: model, optimizer", "CKP-02: step/epoch", "CKP-16: naming by step"
)
def test_everything_saved_comes_back(store, tmp_path):
    path = store.save(make_state(1000), background=False)
    assert path == tmp_path / "checkpoints" / "step-00001000"
    assert pointer(tmp_path, "LATEST") == "step-00001000"
    assert sorted(os.listdir(path)) == [
        "manifest.json",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]
    with open_checkpoint(store.latest_good()) as reader:
        assert_state_is(reader.state(), make_state(1000))
        assert reader.meta.tensors == {} and reader.meta.step == 1000
        assert reader.slots() == ["exp_avg", "exp_avg_sq"]
        part = reader.slice("backbone.blocks.0.attention.q.weight")[2:4, :3]
        assert torch.equal(part, torch.full((2, 3), 1000.0))
        part = reader.optimizer_slice("exp_avg", "backbone.norm.weight")[:2]
        assert torch.equal(part, torch.full((2,), -1000.0))


def test_other_programs_can_read_the_tensors(store):
    path = store.save(make_state(7), background=False)
    state = make_state(7)
    found = load_file(path / "model.safetensors")
    assert all(torch.equal(found[name], t) for name, t in state.tensors.items())
    assert json.loads((path / "state.json").read_text())["cursor"] == state.cursor


def test_a_tensor_read_is_independent_of_the_file(store):
    path = store.save(make_state(7), background=False)
    tensor = open_checkpoint(path).tensor("backbone.norm.weight")
    with open(path / "model.safetensors", "r+b") as file:
        file.write(b"\0" * (path / "model.safetensors").stat().st_size)
    assert torch.equal(tensor, make_state(7).tensors["backbone.norm.weight"])


def test_training_on_during_the_write_does_not_change_what_is_written(
    store, monkeypatch
):
    go_on = threading.Event()
    write = writer.write_tensors
    monkeypatch.setattr(
        writer, "write_tensors", lambda *args: go_on.wait(120) and write(*args)
    )
    state = make_state(4)
    store.save(state)
    for tensor in (*state.tensors.values(), *state.optimizer["exp_avg"].values()):
        tensor.fill_(99)
    state.counters["step"] = 5
    state.journal.append("later")
    go_on.set()
    store.wait()
    assert_state_is(open_checkpoint(store.latest_good()).state(), make_state(4))


@pytest.mark.covers("CKP-05: keep recent and best", "CKP-01: regular")
def test_the_newest_regular_ones_stay_with_best_and_emergency(store, tmp_path, events):
    for step in range(1, 8):
        kind = {2: "best", 3: "emergency"}.get(step, "regular")
        store.save(make_state(step), kind)
    store.wait()
    assert steps_of(tmp_path) == [2, 3, 6, 7]
    assert pointer(tmp_path, "BEST") == "step-00000002"
    removed = [e["data"]["checkpoint"][-1] for e in events.of("checkpoint_removed")]
    assert removed == ["1", "4", "5"]


def test_one_that_cannot_be_deleted_does_not_end_the_run(
    store, tmp_path, events, monkeypatch
):
    """As on NFS, where a folder stays while somebody has a file of it open."""

    def read_by_somebody(path, ignore_errors=False):
        if path.name.endswith("step-00000001"):
            if not ignore_errors:
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        else:
            shutil.rmtree(path, ignore_errors=ignore_errors)

    with monkeypatch.context() as patch:
        patch.setattr(retention, "shutil", stand_in(shutil, rmtree=read_by_somebody))
        for step in range(1, 5):
            store.save(make_state(step), background=False)
        assert retention.remove_leftovers(store.folder)  # what a resume does first
    assert steps_of(tmp_path) == [3, 4] and not events.of("checkpoint_failed")
    told = events.of("checkpoint_not_removed")
    names = [one["data"]["checkpoint"] for one in told]
    assert names == ["step-00000001", ".tmp-removed-step-00000001"]
    assert list(store.folder.glob(".*step-00000001"))
    store.save(make_state(5), background=False)
    assert steps_of(tmp_path) == [4, 5] and not list(store.folder.glob(".*"))
    assert len(events.of("checkpoint_not_removed")) == 2


@pytest.mark.covers("CKP-01: best")
def test_saving_a_step_again_moves_best_without_rewriting(store, tmp_path, monkeypatch):
    store.save(make_state(1), "best")
    path = store.save(make_state(2))
    store.wait()
    before = (path / "model.safetensors").stat()
    store.save(make_state(2), "best", background=False)
    after = (path / "model.safetensors").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert pointer(tmp_path, "BEST") == "step-00000002"
    assert steps_of(tmp_path) == [2]  # the old best was no regular one
    assert open_checkpoint(path).manifest.kinds == ("regular", "best")


def test_best_then_regular_counts_as_regular(store, tmp_path):
    store.save(make_state(1), "best")
    store.save(make_state(1), "regular")
    store.save(make_state(2), "best", background=False)
    assert steps_of(tmp_path) == [1, 2]


def test_a_failure_in_the_background_surfaces_and_the_next_save_works(
    store, tmp_path, events, monkeypatch
):
    store.save(make_state(1), background=False)

    def refuse(*_):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(writer, "write_tensors", refuse)
        store.save(make_state(2))
        with pytest.raises(LuminaError, match="Input/output error") as caught:
            store.save(make_state(3))
    assert caught.value.code == "E303"
    assert events.of("checkpoint_failed")[0]["severity"] == "error"
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["LATEST", "step-00000001"]
    store.save(make_state(2), background=False)
    assert steps_of(tmp_path) == [1, 2]


def test_an_emergency_save_goes_ahead_after_a_failure(store, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(writer, "write_tensors", lambda *_: 1 / 0)
        store.save(make_state(2))
        while store._last_step is not None:
            time.sleep(0.01)
    store.save(make_state(2), "emergency", background=False)
    assert_state_is(open_checkpoint(store.latest_good()).state(), make_state(2))


@pytest.mark.covers("CKP-13: atomic writing")
def test_bytes_spoilt_on_the_way_to_the_disk_are_noticed_before_latest_moves(
    store, tmp_path, monkeypatch
):
    for step in (1, 2):
        store.save(make_state(step), background=False)
    write = writer.write_tensors

    def spoil(path, tensors):
        written = write(path, tensors)
        with open(path, "r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x55")
        return written

    monkeypatch.setattr(writer, "write_tensors", spoil)
    with pytest.raises(LuminaError, match="sha256") as caught:
        store.save(make_state(3), background=False)
    assert caught.value.code == "E303"
    assert pointer(tmp_path, "LATEST") == "step-00000002"
    assert steps_of(tmp_path) == [1, 2]


@pytest.mark.covers("CKP-13: atomic writing", "CKP-13: recovery from power loss")
def test_bytes_are_flushed_before_the_name_and_the_name_before_latest(
    store, tmp_path, monkeypatch
):
    """The order that survives power loss, as the operating system is asked for it."""
    order = []
    sync, rename = os.fsync, os.rename
    replace, remove = os.replace, shutil.rmtree
    names = {}

    def name_of(descriptor):
        found = os.readlink(f"/proc/self/fd/{descriptor}")
        return found.rpartition("/")[2]

    if not os.path.exists("/proc/self/fd"):
        pytest.skip("no /proc to tell what a descriptor is")
    monkeypatch.setattr(os, "fsync", lambda d: (order.append(name_of(d)), sync(d)))
    monkeypatch.setattr(
        os, "rename", lambda a, b: (order.append(f"rename {b.name}"), rename(a, b))
    )
    monkeypatch.setattr(
        os, "replace", lambda a, b: (order.append(f"replace {b.name}"), replace(a, b))
    )
    monkeypatch.setattr(
        shutil, "rmtree", lambda p, **k: (order.append("delete"), remove(p, **k))
    )
    store.keep = 1
    store.save(make_state(1), background=False)
    order.clear()
    names.clear()
    store.save(make_state(2), background=False)

    def at(what):
        assert what in order, (what, order)
        return order.index(what)

    renamed = at("rename step-00000002")
    for name in ("model.safetensors", "optimizer.safetensors", "replace state.json"):
        assert at(name) < at("replace manifest.json") < renamed
    latest = at("replace LATEST")
    assert "checkpoints" in order[renamed:latest], order
    assert latest < at("rename .tmp-removed-step-00000001")


def test_resuming_earlier_sets_later_checkpoints_aside(store, tmp_path, events):
    store.keep = 9
    for step in (1, 2, 3):
        store.save(make_state(step), "best" if step == 3 else "regular")
    store.rewind(1)
    assert steps_of(tmp_path) == [1]
    assert pointer(tmp_path, "LATEST") == "step-00000001"
    assert pointer(tmp_path, "BEST") == "abandoned-1-step-00000003"
    assert len(events.of("checkpoint_abandoned")) == 2
    changed = make_state(2)
    changed.extra["again"] = True
    store.save(changed, background=False)
    assert_state_is(open_checkpoint(store.latest_good()).state(), changed)
    left = {p.name for p in (tmp_path / "checkpoints").glob("abandoned*")}
    assert left == {"abandoned-1-step-00000003"}  # BEST still names it
    store.save(make_state(3), "best", background=False)
    assert not list((tmp_path / "checkpoints").glob("abandoned*"))


def test_an_older_checkpoint_of_the_same_step_is_replaced(tmp_path):
    CheckpointStore(tmp_path).save(make_state(1), background=False)
    store = CheckpointStore(tmp_path)
    changed = make_state(1)
    changed.extra["again"] = True
    store.save(changed, background=False)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["LATEST", "step-00000001"]
    assert_state_is(open_checkpoint(store.latest_good()).state(), changed)


@pytest.mark.covers("CKP-07: architecture checks", "CKP-07: E303")
def test_a_network_of_another_shape_is_refused_by_name(store):
    reader = open_checkpoint(store.save(make_state(1), background=False))
    shapes = {n: tuple(t.shape) for n, t in make_state(1).tensors.items()}
    reader.check_architecture(shapes)
    shapes["backbone.norm.weight"] = (16,)
    shapes["new.weight"] = (2,)
    del shapes["scalar"]
    with pytest.raises(LuminaError) as caught:
        reader.check_architecture(shapes)
    assert caught.value.code == "E303"
    for part in (
        "norm.weight is [8], not [16]",
        "new.weight is missing",
        "scalar is not",
    ):
        assert part in caught.value.message


def test_a_name_that_is_not_held_is_refused(store):
    reader = open_checkpoint(store.save(make_state(1), background=False))
    for read in (
        lambda: reader.tensor("nothing"),
        lambda: reader.optimizer_tensor("exp_avg", "nothing"),
        lambda: reader.optimizer_slice("ema", "backbone.norm.weight"),
    ):
        with pytest.raises(LuminaError, match="E303"):
            read()


def test_nothing_to_resume_is_none(tmp_path):
    assert latest_good(tmp_path) is None
    (tmp_path / "checkpoints" / ".tmp-step-00000001-0001").mkdir(parents=True)
    assert latest_good(tmp_path) is None


def test_two_tensors_of_one_name_from_two_ranks_and_odd_dtypes_are_errors(store):
    state = make_state(1)
    state.tensors["complex"] = torch.ones(1, dtype=torch.complex64)
    with pytest.raises(LuminaError, match="complex has dtype"):
        store.save(state, background=False)
    assert store.latest_good() is None


def test_a_run_directory_that_is_moved_gets_no_half_one_in_its_place(tmp_path):
    store = CheckpointStore(tmp_path / "run")
    store.save(make_state(1), background=False)
    (tmp_path / "run").rename(tmp_path / "moved")
    with pytest.raises(LuminaError, match="E104"):
        store.save(make_state(2))
    assert not (tmp_path / "run").exists()
    shutil.rmtree(tmp_path / "moved" / "checkpoints")
    (tmp_path / "moved").rename(tmp_path / "run")  # back, and its checkpoints gone
    store.save(make_state(3), background=False)
    assert store.latest_good() == tmp_path / "run" / "checkpoints" / "step-00000003"
