"""Checkpoints that a training deletes or replaces while another process reads them."""

from __future__ import annotations

import shutil

import pytest

from interleaved import at_first
from lumina.errors import LuminaError
from lumina.state import reader, retention
from lumina.state.checkpoint import CheckpointStore, open_checkpoint
from lumina.state.reader import latest_good, open_latest
from lumina.state.weights import _chosen
from states import assert_state_is, make_state


@pytest.fixture
def store(tmp_path):
    kept = CheckpointStore(tmp_path, keep=1)
    kept.save(make_state(1), background=False)
    yield kept
    kept.close()


def test_the_newest_is_read_where_a_training_deletes_the_one_before(
    store, tmp_path, monkeypatch
):
    """Between the listing and the end of the verification it goes on by a step."""
    told = []
    at_first(
        monkeypatch,
        reader,
        "_check_digest",
        lambda *_: store.save(make_state(2), background=False),
    )
    with open_latest(tmp_path, lambda *event, **_: told.append(event)) as found:
        assert found.path.name == "step-00000002"
        assert_state_is(found.state(), make_state(2))
    assert not told, "a checkpoint that was deleted on purpose was called damaged"


def test_what_is_open_is_read_to_the_end_though_it_is_deleted(store, tmp_path):
    with open_latest(tmp_path) as found:
        store.save(make_state(2), background=False)
        assert not found.path.exists()
        assert_state_is(found.state(), make_state(1))


def test_a_latest_that_moved_on_is_not_called_lost(store, tmp_path, monkeypatch):
    told = []
    at_first(
        monkeypatch,
        reader,
        "step_folders",
        lambda _: store.save(make_state(2), background=False),
    )
    found = latest_good(tmp_path, lambda *event, **_: told.append(event))
    assert found.name == "step-00000002" and not told


def test_a_best_that_a_better_one_replaces_is_not_missing(store, tmp_path, monkeypatch):
    store.save(make_state(1), "best", background=False)
    pruned = retention.prune

    def better(*_):
        store.save(make_state(2), "best", background=False)
        pruned(store.folder, 0)

    at_first(monkeypatch, reader, "_check_digest", better)
    with _chosen(tmp_path, "best", None) as found:
        assert found.path.name == "step-00000002"


def test_one_that_is_named_and_goes_is_said_to_be_deleted_and_not_damaged(
    store, monkeypatch
):
    path = store.folder / "step-00000001"
    at_first(monkeypatch, reader, "_check_digest", lambda *_: shutil.rmtree(path))
    with pytest.raises(LuminaError, match="was deleted or replaced") as caught:
        open_checkpoint(path)
    assert caught.value.code == "E104"


def test_one_that_is_damaged_is_called_so(store, tmp_path):
    file = store.folder / "step-00000001" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(LuminaError, match="bytes, not") as caught:
        latest_good(tmp_path)
    assert caught.value.code == "E303"
