"""A State that waits in memory while the one before it is being written."""

from __future__ import annotations

import threading

import pytest

from lumina.errors import LuminaError
from lumina.state import writer
from lumina.state.checkpoint import CheckpointStore, open_checkpoint
from lumina.state.reader import read_pointer, step_folders
from lumina.state.writer import Writing
from states import assert_state_is, make_state


class Events:
    """The steps of the events of each kind."""

    def __init__(self):
        self.all = []

    def emit(self, kind, severity, code, message, step, **data):
        self.all.append((kind, step))

    def of(self, kind):
        return [step for found, step in self.all if found == kind]


@pytest.fixture
def events():
    return Events()


@pytest.fixture
def gate(monkeypatch):
    """The disk takes nothing until this is set."""
    opened, write = threading.Event(), Writing.run

    def run(writing):
        assert opened.wait(240)
        write(writing)

    monkeypatch.setattr(Writing, "run", run)
    yield opened
    opened.set()


@pytest.fixture
def store(tmp_path, events, gate):
    store = CheckpointStore(tmp_path, keep=9, on_event=events.emit)
    store.save(make_state(1), "best", already_snapshot=True)
    assert store.busy
    yield store
    gate.set()
    store.close()


def steps_of(run):
    return [step for step, _ in step_folders(run / "checkpoints")]


def best_of(run):
    return read_pointer(run / "checkpoints", "BEST").name


@pytest.mark.covers("CKP-01: best")
def test_a_better_one_takes_the_place_of_one_that_waits(store, tmp_path, events, gate):
    wanted = make_state(3)
    held = make_state(3)
    store.hold(make_state(2), "best")
    store.hold(held, "best")
    # The run goes on, and its own lists with it.
    held.journal.append({"name": "later"})
    held.counters["tokens"] = 0
    assert store.held == 3 and not (tmp_path / "checkpoints" / "LATEST").exists()
    gate.set()
    store.wait()
    assert store.held is None and not store.busy
    assert steps_of(tmp_path) == [3] and best_of(tmp_path) == "step-00000003"
    assert_state_is(open_checkpoint(store.latest_good()).state(), wanted)
    assert events.of("best_overtaken") == [2]
    assert events.of("checkpoint_saved") == [1, 3]


def test_it_is_written_ahead_of_what_is_saved_after_it(store, tmp_path, events, gate):
    store.hold(make_state(2), "best")
    gate.set()
    store.save(make_state(3), "regular", background=False)
    assert events.of("checkpoint_saved") == [1, 2, 3]
    assert best_of(tmp_path) == "step-00000002"
    assert store.latest_good().name == "step-00000003"


def test_the_step_that_waits_gets_another_kind_without_a_second_writing(
    store, tmp_path, events, gate
):
    store.hold(make_state(2), "best")
    gate.set()
    assert store.mark(2, "regular") and not store.mark(3, "regular")
    store.wait()
    manifest = open_checkpoint(store.latest_good()).manifest
    assert (manifest.step, manifest.kinds) == (2, ("best", "regular"))
    assert len(events.of("checkpoint_saved")) == 2


def test_an_error_that_ends_a_run_of_one_process_leaves_it_on_disk(
    tmp_path, events, gate
):
    store = CheckpointStore(tmp_path, on_event=events.emit)
    store.save(make_state(1), "best", already_snapshot=True)
    store.hold(make_state(2), "best")
    gate.set()
    store.close(wait=False)
    assert best_of(tmp_path) == "step-00000002"


def test_of_several_ranks_one_that_gives_up_does_not_write_it(tmp_path, gate):
    store = CheckpointStore(tmp_path, rank=1, world_size=2)
    store.save(make_state(1), "best", already_snapshot=True)
    store.hold(make_state(2), "best")
    gate.set()
    with pytest.raises(LuminaError) as caught:
        store.close(wait=False)
    assert caught.value.code == "E303" and "step-00000001" in caught.value.message
    assert not list((tmp_path / "checkpoints").glob(".tmp-step-00000002*"))


def test_a_failure_before_it_is_told_and_it_is_written(
    store, tmp_path, events, gate, monkeypatch
):
    store.hold(make_state(2), "best")
    write = writer.write_tensors

    def refuse(path, tensors):
        if "step-00000001" in str(path):
            raise OSError(5, "Input/output error")
        return write(path, tensors)

    monkeypatch.setattr(writer, "write_tensors", refuse)
    gate.set()
    with pytest.raises(LuminaError, match="Input/output error"):
        store.write_held()
    store.wait()
    assert best_of(tmp_path) == "step-00000002"


def test_an_emergency_goes_ahead_where_what_waits_cannot_be_written(
    store, tmp_path, events, gate, monkeypatch
):
    gate.set()
    store.wait()
    store.hold(make_state(2), "best")
    write = writer.write_tensors

    def refuse(path, tensors):
        if "step-00000002" in str(path):
            raise OSError(5, "Input/output error")
        return write(path, tensors)

    monkeypatch.setattr(writer, "write_tensors", refuse)
    store.save(make_state(3), "emergency", background=False)
    assert events.of("checkpoint_failed") == [2]
    assert store.latest_good().name == "step-00000003"
    assert best_of(tmp_path) == "step-00000001"
