"""Going back to an earlier step: what is restored, skipped, kept, and resumed."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lumina import Config, Trainer
from lumina.errors import LuminaError
from lumina.state.reader import latest_good, open_checkpoint
from lumina.train import start
from mechanisms import mechanism
from training import (
    DENSE,
    Trainings,
    assert_ranks_end,
    assert_same_run,
    events,
    rows,
    whole_lines,
    words,
)

SHOWN = ("step", "tokens", "loss", "grad_norm", "learning_rate", "epoch", "skipped")


def shown(found: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [tuple(row.get(key) for key in SHOWN) for row in found]


def rolled_back(config: Config, value: dict[str, Any], at: int = 9) -> Path:
    """A run that is asked to go back after the row of a step; no row comes twice."""
    asked = []

    def on_step(trainer: Trainer, row: dict[str, Any]) -> None:
        if row["step"] == at and not asked:
            asked.append(trainer.controls.request("rollback", value, "it went wrong"))

    return Trainer(config, on_step=on_step).train().run_dir


@pytest.fixture
def saving(tiny_config: Config) -> Config:
    return tiny_config.replace(
        steps=12, save_every_n_batches=4, save_total_limit=9, eval_every_n_batches=3
    )


@pytest.mark.covers("CKP-11: rollback manual")
def test_all_is_as_it_was_at_the_step(saving: Config) -> None:
    """The steps are taken again, to the bit; what was undone is kept."""
    run = rolled_back(saving, {"steps": 8, "skip_data": False})
    undone = whole_lines(run / "undone" / "1" / "metrics.jsonl")
    found = rows(run)
    assert [row["step"] for row in found] == list(range(1, 13))
    # Asked for after step 9, agreed with step 10: to step 4, the oldest within reach.
    assert [row["step"] for row in undone] == [5, 6, 7, 8, 9, 10]
    assert shown(found[4:10]) == shown(undone)
    told = events(run, "rolled_back")[0]
    assert (told["step"], told["data"]["from_step"]) == (4, 10)
    assert told["data"]["tokens_undone"] == undone[-1]["tokens"] - found[3]["tokens"]
    with open_checkpoint(latest_good(run)) as reader:
        names = [change["name"] for change in reader.meta.journal]
    assert names == ["rollback"]


@mechanism(
    "data that does harm",
    component="step",
    failure="the rows between a checkpoint and now made the run worse",
    recovery="roll back",
    expected="weights, moments, schedule and data go back; those rows are skipped, to "
    "the bit as a run that went on there",
    real=False,
)
def test_the_rows_in_between_are_skipped(
    saving: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As a run that goes on from that checkpoint with the rows behind them."""
    value = {"steps": 8, "learning_rate_factor": 0.5}
    run = rolled_back(saving, value)
    whole = Trainer(saving.replace(run_dir=str(tmp_path / "whole"))).train().run_dir
    edited = start.edited

    def behind(meta: Any, edits: Any) -> Any:
        found = edited(meta, edits)
        live = found.extra["live"] | {"learning_rate_scale": 0.5}
        cursor = {"epoch": 0, "row": 10 * 4}
        return replace(found, cursor=cursor, extra=found.extra | {"live": live})

    monkeypatch.setattr(start, "edited", behind)
    there = whole / "checkpoints" / "step-00000004"
    Trainer(saving.replace(resume=str(there), run_dir=None)).train()
    assert shown(rows(run)) == shown(rows(whole))
    factor = (
        rows(run)[4]["learning_rate"]
        / whole_lines(run / "undone" / "1" / "metrics.jsonl")[0]["learning_rate"]
    )
    assert factor == pytest.approx(0.5)


@pytest.mark.thorough
def test_a_later_change_is_taken_back_with_the_run(saving: Config) -> None:
    """And one from before the step holds."""
    asked: list[int] = []

    def on_step(trainer: Trainer, row: dict[str, Any]) -> None:
        step = row["step"]
        if step not in asked and step in (2, 6, 9):
            asked.append(step)
            if step == 9:
                trainer.controls.request("rollback", {"steps": 8}, "again")
            else:
                trainer.adjust_weight_decay(step / 10)

    trainer = Trainer(saving, on_step=on_step)
    run = trainer.train().run_dir
    with open_checkpoint(latest_good(run)) as reader:
        found = {c["value"]: c["outcome"] for c in reader.meta.journal[:2]}
        assert reader.meta.extra["live"]["weight_decay"] == 0.2
    assert found == {0.2: "applied", 0.6: "taken back with the run, to step 4"}


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({"skip_data": True}, "E005"),
        ({"steps": 0}, "E005"),
        ({"steps": 4, "learning_rate_factor": 2.0}, "E005"),
        ({"steps": 4, "rows": 2}, "E005"),
    ],
)
def test_what_makes_no_sense_is_refused(value: dict[str, Any], code: str) -> None:
    from lumina.train.controls import Controls

    with pytest.raises(LuminaError) as caught:
        Controls().request("rollback", value, "")
    assert caught.value.code == code and "goes back by at most" in caught.value.hint


@pytest.mark.thorough
@pytest.mark.covers("ORC-26: rollback_steps(num_steps)")
def test_the_best_model_of_the_last_steps(saving: Config) -> None:
    """By the held-out loss: not the newest, and not the oldest."""
    asked: list[int] = []

    def on_step(trainer: Trainer, row: dict[str, Any]) -> None:
        if row["step"] == 3 and not asked:
            asked.append(trainer.adjust_learning_rate(0.5, "harm"))
        if row["step"] == 8 and len(asked) == 1:
            asked.append(trainer.rollback_steps(8))

    config = saving.replace(steps=10, eval_every_n_batches=2, save_every_n_batches=2)
    run = Trainer(config, on_step=on_step).train().run_dir
    assert events(run, "rolled_back")[0]["step"] == 4
    found = rows(run)
    assert max(row["learning_rate"] for row in found) <= 3e-3
    assert found[-1]["eval_loss"] < found[3]["eval_loss"] + 0.1


@mechanism(
    "rollback without a checkpoint",
    component="step",
    failure="a rollback where nothing was saved",
    recovery="go on",
    expected="refused by an event (E304); the run trains on",
    real=False,
)
@pytest.mark.thorough
def test_without_anything_to_go_back_to_the_run_goes_on(saving: Config) -> None:
    run = rolled_back(
        saving.replace(steps=6, eval_every_n_batches=0), {"steps": 2}, at=3
    )
    told = events(run, "control")[0]
    assert "E304" in told["data"]["outcome"] and not events(run, "rolled_back")
    assert [row["step"] for row in rows(run)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.thorough
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("data", ["stream", "mixture"])
def test_streams_and_mixtures_go_back(
    tiny_config: Config, tmp_path: Path, data: str, skip: bool
) -> None:
    """The same rows come again, or those behind them; a resume goes on as the run."""
    config = tiny_config.replace(
        steps=12, save_every_n_batches=4, save_total_limit=9, seed=3
    )
    corpus = config.data.train_data[0]
    if data == "stream":
        config = config.replace(data_loading="streaming", eval_fraction=0.0)
    else:
        other = tmp_path / "other.txt"
        other.write_text("Nothing is as it was. " * 400)
        config = config.replace(
            train_data=(),
            sources=(f"a={corpus}", f"b={other}"),
            source_weights=("a=3", "b=1"),
        )
    run = rolled_back(config, {"steps": 4, "skip_data": skip})
    undone = whole_lines(run / "undone" / "1" / "metrics.jsonl")
    found = rows(run)
    assert (shown(found[8:10]) == shown(undone)) is not skip
    whole = shown(found)
    there = run / "checkpoints" / "step-00000008"
    Trainer(config.replace(resume=str(there), run_dir=None)).train()
    assert shown(rows(run)) == whole


def damage_and_go_back(value: dict[str, Any], kill: str = "") -> None:
    """In a child: ask to go back after step 9, and be killed at a place of it."""
    from lumina.state.checkpoint import CheckpointStore
    from lumina.train.loop import Loop
    from lumina.train.recorder import Recorder

    asked = []
    write = Loop._write

    def asking(loop: Loop, row: dict[str, Any]) -> None:
        write(loop, row)
        if row["step"] == 9 and not asked and loop.program.ranks.main:
            asked.append(loop.controls.request("rollback", value, "it went wrong"))

    Loop._write = asking  # type: ignore[method-assign]
    places = {
        "before the checkpoint": (CheckpointStore, "go_back"),
        "before later ones are set aside": (CheckpointStore, "rewind"),
        "before the rows are moved": (Recorder, "take_back"),
        "behind it": (Loop, "_read_ahead"),
    }
    if not kill:
        return
    owner, name = places[kill]
    inner = getattr(owner, name)

    def ending(self: Any, *arguments: Any) -> Any:
        if asked and (name != "_read_ahead" or self.saving.newest == 4):
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(self, *arguments)

    setattr(owner, name, ending)


@pytest.mark.thorough
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_two_ranks_go_back_together(trainings: Trainings, parallel: str) -> None:
    """To a snapshot of which each holds a part; a resume goes on as they do."""
    flags = [*FLAGS, *words(f"--batch-size 2 --parallel {parallel} --snapshot-every 3")]
    value = VALUE | {"steps": 3}
    running = trainings.ranks(
        parallel, *flags, before=partial(damage_and_go_back, value)
    )
    assert_ranks_end(running)
    run = trainings.folder / parallel
    told = events(run, "rolled_back")[0]
    assert (told["step"], told["data"]["target"]) == (9, "snapshot")
    whole = shown(rows(run))
    assert len(whole) == 12
    there = run / "checkpoints" / "step-00000009"
    resumed = trainings.ranks(parallel, *flags, "--resume", str(there))
    assert_ranks_end(resumed)
    assert shown(rows(run)) == whole


FLAGS = [
    *DENSE,
    *words("--precision fp32 --steps 12 --save-every-n-batches 4"),
    *words("--save-total-limit 9 --warmup-steps 2"),
]
VALUE = {"steps": 8, "learning_rate_factor": 0.5, "rewarm_steps": 4}


@mechanism(
    "killed in a rollback before later checkpoints are set aside",
    component="checkpoint",
    failure="SIGKILL in a rollback, with the later checkpoints still in place",
    recovery="resume",
    expected="the resume ends it; figures as of a rollback that was not killed",
    case="before later ones are set aside",
)
@mechanism(
    "killed in a rollback before the rows move",
    component="record",
    failure="SIGKILL in a rollback, before rows of metrics are taken back",
    recovery="resume",
    expected="the resume ends it; figures as of a rollback that was not killed",
    case="before the rows are moved",
)
@mechanism(
    "killed in a rollback before the checkpoint",
    component="process",
    failure="SIGKILL in a rollback, before its checkpoint is named",
    recovery="resume",
    expected="as if the rollback had not begun; it can be asked for again",
    case="before the checkpoint",
)
@pytest.mark.thorough
@pytest.mark.faults
@pytest.mark.parametrize(
    "place",
    [
        "before the checkpoint",
        "before later ones are set aside",
        "before the rows are moved",
        "behind it",
    ],
)
def test_killed_in_the_middle_of_it(trainings: Trainings, place: str) -> None:
    """The run goes on as one that was not killed; before the checkpoint, from 8."""
    whole = trainings.folder / "whole"
    if not whole.exists():
        ask = partial(damage_and_go_back, VALUE)
        running = trainings.start("whole", *FLAGS, before=ask)
        assert running.wait() == 0, running.output
        assert events(whole, "rolled_back")
    name = place.replace(" ", "-")
    ask = partial(damage_and_go_back, VALUE, place)
    running = trainings.start(name, *FLAGS, before=ask)
    assert running.wait() == -signal.SIGKILL, running.output
    again = partial(damage_and_go_back, VALUE)
    before = again if place == "before the checkpoint" else None
    running = trainings.start(name, *FLAGS, "--auto-resume", before=before)
    assert running.wait() == 0, running.output
    assert_same_run(trainings.folder / name, whole)
