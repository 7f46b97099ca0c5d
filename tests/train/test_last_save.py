"""What a run learned is saved before an error of any other part ends it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import lumina.train.step as steps
from lumina.errors import LuminaError
from lumina.state.reader import latest_good
from lumina.train.evaluations import Evaluations
from mechanisms import mechanism
from tiny_runs import Run, Runs

LONG = {"steps": 6, "save_every_n_batches": 2, "grad_accum": 2, "batch_size": 2}


class BreaksError(Exception):
    """What an error in a plug-in, a driver or a library looks like."""


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


def broken(runs: Runs, module: Any, name: str, at: int, **leaves: Any) -> Path:
    """A run in which a function fails when it is called for the `at`th time."""
    calls, function = 0, getattr(module, name)

    def fails(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise BreaksError("the tap is broken")
        return function(*given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, fails)
        with pytest.raises(BreaksError):
            runs.train(**LONG | leaves)
    (folder,) = runs.folder.glob("run-*")
    return folder


def resumed(runs: Runs, folder: Path, **leaves: Any) -> Run:
    return runs.train(**LONG | leaves | {"run_dir": None, "resume": str(folder)})


def told(folder: Path, kind: str) -> list[str]:
    lines = (folder / "events.jsonl").read_text().splitlines()
    return [line for line in lines if f'"{kind}"' in line]


def assert_same(one: Run, two: Run) -> None:
    assert one.column("loss") == two.column("loss")
    assert one.column("step") == two.column("step")
    assert all(torch.equal(two.tensors[n], t) for n, t in one.tensors.items())


@mechanism(
    "an error in the middle of a step",
    component="process",
    failure="a forward pass raises what nothing here knows",
    recovery="save and end",
    expected="the weights of the last whole step are saved, and the error goes on",
    real=False,
)
@pytest.mark.covers("TRN-24: emergency checkpoint before crash")
def test_the_steps_before_a_broken_one_are_saved(runs: Runs) -> None:
    """It broke in the second forward of step 4: what the first did is gone.

    Its tokens are not counted twice, either.
    """
    counted = {"watch_vocabulary": True}
    folder = broken(runs, steps, "_losses_of", at=8, **counted)
    assert latest_good(folder).name == "step-00000003"
    (event,) = told(folder, "emergency_checkpoint")
    assert "step 3 was saved" in event and "the tap is broken" in event
    again, whole = resumed(runs, folder, **counted), runs.train(**LONG, **counted)
    assert_same(whole, again)
    assert again.column("vocabulary_rare") == whole.column("vocabulary_rare")


@pytest.mark.covers("TRN-24: emergency checkpoint before crash")
def test_a_failing_evaluation_costs_no_step_and_is_made_up_for(runs: Runs) -> None:
    evaluated = {"eval_every_n_batches": 3, "eval_fraction": 0.2}
    folder = broken(runs, Evaluations, "judge", at=1, **evaluated)
    assert latest_good(folder).name == "step-00000003"
    whole, again = runs.train(**LONG, **evaluated), resumed(runs, folder, **evaluated)
    assert_same(whole, again)
    assert again.column("eval_loss") == whole.column("eval_loss")


def test_what_belongs_to_no_step_is_not_saved(runs: Runs) -> None:
    """Weights that were being changed, and a step that has its checkpoint."""
    from lumina.optim.optimizer import Optimizers

    folder = broken(runs, Optimizers, "zero_grad", at=4)
    assert latest_good(folder).name == "step-00000002"
    assert not told(folder, "emergency_checkpoint")
    assert_same(runs.train(**LONG), resumed(runs, folder))


def test_after_a_step_with_a_checkpoint_there_is_nothing_to_save(runs: Runs) -> None:
    folder = broken(runs, steps, "_losses_of", at=5)
    assert latest_good(folder).name == "step-00000002"
    assert not told(folder, "emergency_checkpoint")


def test_where_saving_fails_too_the_first_error_is_told(runs: Runs) -> None:
    from lumina.state.checkpoint import CheckpointStore

    save = CheckpointStore.save

    def full(store: Any, state: Any, kind: str = "regular", **named: Any) -> Any:
        if kind == "emergency":
            raise LuminaError("E204", "no room", "make some")
        return save(store, state, kind, **named)

    runs.monkeypatch.setattr(CheckpointStore, "save", full)
    folder = broken(runs, steps, "_losses_of", at=8)
    assert latest_good(folder).name == "step-00000002"
    (event,) = told(folder, "emergency_checkpoint_failed")
    assert "no room" in event and "E204" in event


def test_what_a_broken_step_did_and_cannot_be_undone_is_not_saved(runs: Runs) -> None:
    from lumina.train.memory_ladder.shortage import Before

    def lost(before: Before, program: Any) -> None:
        raise RuntimeError("the device no longer answers")

    runs.monkeypatch.setattr(Before, "restore", lost)
    folder = broken(runs, steps, "_losses_of", at=8)
    assert latest_good(folder).name == "step-00000002"
    assert not told(folder, "emergency_checkpoint")
