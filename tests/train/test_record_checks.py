"""What is looked at beside the checkpoints before a run goes on."""

from __future__ import annotations

import pytest

from lumina.config import Config
from lumina.errors import LuminaError
from lumina.state.checkpoint import CheckpointStore, latest_good
from lumina.state.finite import require_finite
from lumina.train.record_checks import (
    gaps_in_words,
    missing_rows,
    require_records,
    require_settings,
    require_settings_of_latest,
    require_whole_settings,
)
from lumina.train.resume import find_run
from states import Events, make_state


@pytest.fixture
def run(tmp_path):
    """A run folder with its settings, rows, events and a checkpoint that has them."""
    folder = tmp_path / "run"
    config = Config(steps=9, run_dir=str(folder))
    state = make_state(2)
    state.config = config.to_dict()
    store = CheckpointStore(folder)
    store.save(make_state(1))
    store.save(state)
    store.close()
    config.save(folder / "config.yaml")
    (folder / "metrics.jsonl").write_text('{"step":1}\n{"step":2}\n')
    (folder / "events.jsonl").write_text('{"kind":"a"}\n')
    return folder


def refused(code, check, *arguments):
    with pytest.raises(LuminaError) as caught:
        check(*arguments)
    assert caught.value.code == code and caught.value.hint
    return caught.value.message


def test_a_whole_run_is_refused_nothing(run):
    require_settings(run)
    require_settings_of_latest(run)
    require_records(run)
    assert find_run(Config(run_dir=str(run), auto_resume=True)) == run


@pytest.mark.parametrize("left", ["rows", "checkpoints"])
def test_settings_that_are_gone(run, left):
    (run / "config.yaml").unlink()
    if left == "rows":
        (run / "checkpoints").rename(run / "elsewhere")
    else:
        (run / "metrics.jsonl").write_text("")
    for asked in (
        Config(run_dir=str(run), auto_resume=True),
        Config(resume=str(run)),
    ):
        assert "config.yaml" in refused("E303", find_run, asked)


def test_a_folder_where_nothing_was_trained_needs_no_settings(tmp_path):
    require_settings(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    require_settings(tmp_path)
    assert find_run(Config(run_dir=str(tmp_path), auto_resume=True)) is None


def test_settings_that_are_cut_at_a_line(run):
    file = run / "config.yaml"
    file.write_text(file.read_text().replace("  steps: 9", "# "))
    said = refused("E303", require_settings_of_latest, run)
    assert "lacks steps, which" in said
    # What an older checkpoint does not know either is not missed.
    require_whole_settings(run, {"preset": None, "no_longer_an_option": 1})


@pytest.mark.parametrize("name", ["metrics.jsonl", "events.jsonl"])
def test_a_line_that_cannot_be_read(run, name):
    file = run / name
    file.write_bytes(file.read_bytes() + b'{"step":')
    require_records(run)  # half a line at the end is what a kill leaves
    file.write_bytes(b"\xff\n" + file.read_bytes())
    assert f"{name}, line 1" in refused("E101", require_records, run)


def test_steps_without_rows():
    def gaps(*steps, done):
        return missing_rows([{"step": step} for step in steps], done)

    assert gaps(1, 2, 3, done=3) == [] == gaps(done=0)
    assert gaps(done=1) == [(1, 1)] and gaps(1, 2, done=4) == [(3, 4)]
    assert gaps(2, 3, 7, done=8) == [(1, 1), (4, 6), (8, 8)]
    assert gaps_in_words([(1, 1), (4, 1000)]) == "1, 4 to 1,000"


@pytest.mark.parametrize("where", ["weights", "moments"])
@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_a_checkpoint_with_a_number_that_is_not_finite(run, where, number):
    state = make_state(3)
    name = "backbone.norm.weight"
    held = state.tensors if where == "weights" else state.optimizer["exp_avg"]
    held[name][-1] = number
    store = CheckpointStore(run)
    store.save(state, background=False)
    store.close()
    folder = run / "checkpoints"
    assert latest_good(run) == folder / "step-00000003"  # it can be looked at
    events = Events()
    good = latest_good(run, events.emit, require_finite)
    assert good == folder / "step-00000002"
    (told,) = events
    assert told["code"] == "E303" and name in told["data"]["reason"]
