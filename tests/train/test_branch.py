"""Branches of a run in its stable phase, and schedules over a resume."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lumina.config import Config
from lumina.errors import LuminaError
from lumina.observe.console import Console
from lumina.train import Trainer
from tiny_runs import Run, Runs, same

PEAK = 3e-3


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


def branched(runs: Runs, trunk: Path | str, **leaves: Any) -> Run:
    """A branch of which nothing else is asked."""
    folder = str(runs.folder / f"branch-{len(list(runs.folder.iterdir()))}")
    config = Config(branch_from=str(trunk), run_dir=folder, **leaves)
    console = Console(stream=io.StringIO(), live=False)
    return Run(Trainer(config, console=console).train(), "")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_a_branch_decays_and_the_trunk_goes_on(runs: Runs) -> None:
    trunk = runs.train(steps=6, save_every_n_batches=2, save_total_limit=9)
    before = contents(trunk.folder)
    fork = trunk.folder / "checkpoints" / "step-00000004"
    branch = branched(runs, fork, decay_steps=3, min_lr=0.0)

    assert contents(trunk.folder) == before
    assert [row["step"] for row in branch.rows] == [1, 2, 3, 4, 5, 6, 7]
    assert branch.rows[:4] == trunk.rows[:4]
    falls = pytest.approx([PEAK * 2 / 3, PEAK / 3, 0.0])
    assert branch.column("learning_rate")[4:] == falls
    assert branch.rows[4]["loss"] == trunk.rows[4]["loss"]  # the same rows come next
    assert [e["step"] for e in branch.events if e["kind"] == "branched"] == [4]

    # A run that was planned so from the start comes to the same weights.
    planned = runs.train(
        steps=7, lr_scheduler="wsd", decay_steps=3, min_lr=0.0, warmup_steps=0
    )
    assert all(same(planned.tensors[n], t) for n, t in branch.tensors.items())

    # And the trunk goes on as if there were no branch.
    Trainer(Config(resume=str(trunk.folder), steps=8)).train()
    whole = runs.train(steps=8)
    assert all(same(whole.tensors[n], t) for n, t in trunk.tensors.items())


@pytest.mark.thorough
def test_lengths_of_a_branch(runs: Runs) -> None:
    trunk = runs.train(steps=4, save_every_n_batches=4)

    def planned(**leaves: object) -> tuple[str, int, int]:
        config = Config(
            branch_from=str(trunk.folder), run_dir=str(runs.folder / "b"), **leaves
        )
        plan, _, _ = Trainer(config).explain()
        return plan.lr_scheduler, plan.steps, plan.decay_steps

    assert planned() == ("wsd", 5, 1)
    assert planned(decay_ratio=0.5) == ("wsd", 8, 4)
    assert planned(steps=9) == ("wsd", 9, 5)
    assert planned(steps=9, decay_steps=2) == ("wsd", 9, 2)


@pytest.mark.parametrize(
    ("trunk", "branch", "words"),
    [
        ({"lr_scheduler": "cosine"}, {}, "not its peak"),
        pytest.param(
            {},
            {"steps": 5, "decay_steps": 3},
            "begins before",
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            {}, {"hidden_size": 64}, "other settings", marks=pytest.mark.thorough
        ),
        pytest.param({}, {"resume": "latest"}, "both set", marks=pytest.mark.thorough),
    ],
)
def test_what_cannot_branch_is_refused_and_leaves_nothing(
    runs: Runs, trunk: dict, branch: dict, words: str
) -> None:
    folder = runs.train(**({"steps": 3} | trunk)).folder
    config = {"branch_from": str(folder), "run_dir": str(runs.folder / "branch")}
    if "lr_scheduler" in trunk:
        branch = branch | {"lr_scheduler": "wsd"}
    with pytest.raises(LuminaError, match=words) as caught:
        Trainer(Config(**(config | branch))).train()
    assert caught.value.code == "E002"
    assert not (runs.folder / "branch").exists()


def test_a_branch_that_fails_before_it_begins_leaves_nothing(runs: Runs) -> None:
    """While its folder is filled, and after that, whatever the failure is."""
    folder = runs.train(steps=3).folder
    (runs.folder / "empty").mkdir()
    before = sorted(runs.folder.iterdir())

    def fails(error: BaseException) -> Callable[..., Any]:
        def failing(*_: Any, **__: Any) -> Any:
            raise error

        return failing

    refusal = LuminaError("E101", "no rows", "none")
    for place, error, told in (
        ("branch.sync_folder", OSError(28, "No space left on device"), LuminaError),
        ("branch.read_metrics", refusal, LuminaError),
        ("job.Job.prepare", OSError(5, "Input/output error"), OSError),
        ("job.Job.prepare", KeyboardInterrupt(), KeyboardInterrupt),
        ("job.Job.prepare", refusal, LuminaError),
    ):
        for run_dir in (None, "a/b/branch", "empty"):
            named = None if run_dir is None else str(runs.folder / run_dir)
            config = Config(branch_from=str(folder), run_dir=named, decay_steps=2)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(f"lumina.train.{place}", fails(error))
                with pytest.raises(told):
                    Trainer(config).train()
            assert sorted(runs.folder.iterdir()) == before, (place, run_dir)
            assert not list((runs.folder / "empty").iterdir())


@pytest.mark.thorough
def test_a_branch_whose_data_is_gone_leaves_nothing(runs: Runs) -> None:
    folder = runs.train(steps=3).folder
    runs.data.rename(runs.folder / "elsewhere.txt")
    with pytest.raises(LuminaError) as caught:
        branched(runs, folder, decay_steps=2)
    assert caught.value.code == "E104"
    assert not [file for file in runs.folder.iterdir() if "branch" in file.name]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("onecycle", marks=pytest.mark.thorough),
        pytest.param("polynomial", marks=pytest.mark.thorough),
        pytest.param("inverse_sqrt", marks=pytest.mark.thorough),
        pytest.param("wsd", marks=pytest.mark.thorough),
    ],
)
def test_every_schedule_resumes_to_the_bit(runs: Runs, name: str) -> None:
    how: dict[str, Any] = {"lr_scheduler": name, "steps": 6}
    how |= {"decay_steps": 1} if name == "wsd" else {}
    whole = runs.train(save_every_n_batches=3, warmup_steps=2, **how)
    fork = whole.folder / "checkpoints" / "step-00000003"
    again = branched(runs, fork, **how)
    assert again.column("learning_rate") == whole.column("learning_rate")
    assert all(same(whole.tensors[n], t) for n, t in again.tensors.items())
