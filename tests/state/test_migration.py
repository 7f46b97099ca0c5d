"""Checkpoints of other format versions, as files."""

from __future__ import annotations

import json

import pytest

from lumina.errors import LuminaError
from lumina.state import migration
from lumina.state.checkpoint import CheckpointStore, latest_good, open_checkpoint
from lumina.state.manifest import _digest_of, read_manifest
from lumina.state.migration import Migration
from states import assert_state_is, make_state


@pytest.fixture
def path(tmp_path):
    return CheckpointStore(tmp_path).save(make_state(1), background=False)


def edit_manifest(path, edit):
    file = path / "manifest.json"
    values = json.loads(file.read_text())
    del values["digest"]
    edit(values)
    values["digest"] = _digest_of(values)
    file.write_text(json.dumps(values))


@pytest.mark.covers("CKP-08: minor-version tolerance")
def test_a_newer_minor_version_is_read_and_what_it_added_kept(path):
    def newer(values):
        values["format_version"] = "1.9"
        values["compression"] = "none"
        values["tensors"]["scalar"]["unit"] = "steps"

    edit_manifest(path, newer)
    assert_state_is(open_checkpoint(path).state(), make_state(1))
    read_manifest(path).with_kind("best").write(path)
    assert json.loads((path / "manifest.json").read_text())["compression"] == "none"
    assert open_checkpoint(path).manifest.kinds == ("regular", "best")


@pytest.mark.covers("CKP-07: version checks")
def test_a_newer_major_version_is_refused_with_what_to_do(path, tmp_path):
    edit_manifest(path, lambda values: values.update(format_version="2.0"))
    with pytest.raises(LuminaError) as caught:
        open_checkpoint(path)
    assert caught.value.code == "E303"
    assert "2.0" in caught.value.message and "update" in caught.value.hint
    with pytest.raises(LuminaError, match=r"none of the 1.*format 2\.0"):
        latest_good(tmp_path)


@pytest.mark.covers("CKP-08: migration of older checkpoint formats")
def test_older_major_versions_are_brought_up_one_by_one(path, monkeypatch):
    """Two future steps: 1 -> 2 renames a counter, 2 -> 3 the manifest's key."""

    def to_two(state):
        counters = state["counters"]
        counters["words"] = counters.pop("tokens")
        return state

    def to_three(manifest):
        manifest["kinds"] = [f"{kind}!" for kind in manifest["kinds"]]
        return manifest

    monkeypatch.setattr(migration, "FORMAT_VERSION", "3.2")
    monkeypatch.setitem(migration.MIGRATIONS, 1, Migration(lambda m: m, to_two))
    monkeypatch.setitem(migration.MIGRATIONS, 2, Migration(to_three, lambda s: s))
    reader = open_checkpoint(path)
    assert reader.meta.counters["words"] == 1000
    assert reader.manifest.kinds == ("regular!",)
    monkeypatch.delitem(migration.MIGRATIONS, 1)
    with pytest.raises(LuminaError, match="can no longer be read"):
        open_checkpoint(path)
