"""Callbacks of Python: what they get, in which order, and what an exception does."""

from __future__ import annotations

import threading
from io import StringIO
from pathlib import Path

import pytest

from lumina import Callback, Trainer
from lumina.observe.console import Console
from lumina.state.events import read_events
from lumina.state.metrics import read_metrics
from lumina.state.reader import open_checkpoint
from lumina.state.run_directory import RunDirectory
from tiny_runs import Runs


class Notes(Callback):
    """Writes down every call under a name of its own."""

    def __init__(self, name: str, calls: list) -> None:
        self.name, self.calls = name, calls

    def note(self, what, *values) -> None:
        assert threading.current_thread() is threading.main_thread()
        self.calls.append((self.name, what, *values))

    def on_step(self, trainer, row) -> None:
        self.note("step", row)

    def on_evaluation(self, trainer, step, found) -> None:
        self.note("evaluation", step, found)

    def on_checkpoint(self, trainer, saved) -> None:
        open_checkpoint(saved.path).close()
        self.note("checkpoint", saved)

    def on_event(self, trainer, event) -> None:
        self.note("event", event)


def test_rows_evaluations_checkpoints_and_events_come_in_order(
    tmp_path: Path, monkeypatch
) -> None:
    runs, calls = Runs(tmp_path, monkeypatch), []
    config = runs.config(steps=4, eval_every_n_batches=2, save_every_n_batches=3)
    console = Console(stream=StringIO(), live=False)
    both = [Notes("first", calls), Notes("second", calls)]
    run = (
        Trainer(
            config,
            console=console,
            on_step=lambda trainer, row: calls.append(("plain", "step", row)),
            callbacks=both,
        )
        .train()
        .run_dir
    )
    rows, events = read_metrics(run), read_events(run)
    for name in ("first", "second"):
        mine = [call[1:] for call in calls if call[0] == name]
        assert [value for what, value, *_ in mine if what == "step"] == rows
        assert [value for what, value, *_ in mine if what == "event"] == events
        judged = [call[1:] for call in mine if call[0] == "evaluation"]
        assert [(step, found["eval_loss"]) for step, found in judged] == [
            (row["step"], row["eval_loss"]) for row in rows if "eval_loss" in row
        ]
        saved = [call[1] for call in mine if call[0] == "checkpoint"]
        assert [s.path.parent for s in saved] == [run / "checkpoints"] * len(saved)
        assert {s.step for s in saved} >= {3, 4} and all(s.bytes > 0 for s in saved)
    steps = [(name, row["step"]) for name, what, row, *_ in calls if what == "step"]
    assert steps == [
        (name, step) for step in range(1, 5) for name in ("plain", "first", "second")
    ]


def test_an_exception_ends_the_run_which_can_be_gone_on_with(
    tmp_path: Path, monkeypatch
) -> None:
    runs, calls = Runs(tmp_path, monkeypatch), []

    class Broken(Callback):
        def on_evaluation(self, trainer, step, found) -> None:
            raise ZeroDivisionError("mine")

    config = runs.config(steps=4, eval_every_n_batches=2, save_every_n_batches=1)
    trainer = Trainer(
        config,
        console=Console(stream=StringIO(), live=False),
        callbacks=[Broken(), Notes("after", calls)],
    )
    with pytest.raises(ZeroDivisionError, match="mine"):
        trainer.train()
    run = Path(config.run.run_dir)
    status = RunDirectory(run).status()
    assert status["status"] == "failed" and status["step"] == 2
    assert "evaluation" not in [call[1] for call in calls]
    more = runs.train(**{"run_dir": str(run), "auto_resume": True, "steps": 4})
    assert more.column("step") == [1, 2, 3, 4]


def test_a_callback_stops_a_run(tmp_path: Path, monkeypatch) -> None:
    class Enough(Callback):
        def on_step(self, trainer, row) -> None:
            if row["step"] == 2:
                trainer.stop()

    config = Runs(tmp_path, monkeypatch).config(steps=9)
    console = Console(stream=StringIO(), live=False)
    result = Trainer(config, console=console, callbacks=[Enough()]).train()
    assert result.steps == 3 and result.exit_code == 143
