"""A control in a file outside the package, which docs/extending.md shows too."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from lumina import Config, Trainer
from lumina.errors import LuminaError
from lumina.state.reader import latest_good, open_checkpoint
from training import assert_same_run, column, events, start, start_process

TOY = Path(__file__).with_name("toy_control.py")
PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


def train(file: Path, kill_at: int) -> None:
    """In a process of its own: change a control, and change it back."""
    config = Config.load(file)

    def on_step(trainer, row):
        step = row["step"]
        if step == 2:
            trainer.controls.request("average_decay", 0.2, "a test")
        if step == 4:
            trainer.adjust_batch_size(2)  # another program, in which the value holds
        if step == 9:
            trainer.controls.undo(1)
        if step == kill_at:
            run = Path(config.run.run_dir)
            while latest_good(run).name != "step-00000007":
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

    Trainer(config, on_step=on_step).train()


def test_the_page_shows_it():
    assert f"# average.py\n{TOY.read_text().partition(chr(10) * 2)[2]}```" in (
        PAGE.read_text()
    )


def settings(config, run):
    return config.replace(
        run_dir=str(run), plugins=(str(TOY),), ema_decay=0.9,
        steps=14, save_every_n_batches=7, eval_every_n_batches=4, auto_resume=True,
    )  # fmt: skip


def in_a_process(config, folder, kill_at=0):
    """Train in a process of its own; returns its exit status."""
    file = folder / "config.yaml"
    config.save(file)
    process = start_process(train, file, kill_at)
    process.join()
    return process.exitcode


def journal(run):
    return open_checkpoint(latest_good(run)).meta.journal


@pytest.mark.thorough
def test_it_is_applied_undone_and_resumed_to_the_bit(tiny_config, tmp_path):
    whole = settings(tiny_config, tmp_path / "whole")
    assert in_a_process(whole, tmp_path) == 0
    told = [(c["name"], c["old"], c["value"], c["outcome"], c["undoes"])
            for c in journal(tmp_path / "whole")]  # fmt: skip
    assert told == [
        ("average_decay", 0.9, 0.2, "undone", None),
        ("micro_batch_size", 4, 2, "applied", None),
        ("average_decay", 0.2, 0.9, "applied", 1),
    ]
    killed = settings(tiny_config, tmp_path / "killed")
    assert in_a_process(killed, tmp_path, kill_at=8) == -signal.SIGKILL
    assert in_a_process(killed, tmp_path) == 0
    assert events(tmp_path / "killed", "resumed")
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    assert journal(tmp_path / "killed")[2] == journal(tmp_path / "whole")[2]

    Trainer(settings(tiny_config, tmp_path / "plain")).train()
    plain, changed = (
        column(tmp_path / name, "eval_loss") for name in ("plain", "whole")
    )
    assert plain[1:] != changed[1:], "the value does nothing"
    report = (tmp_path / "whole" / "report.html").read_text()
    assert "average_decay: 0.9 -&gt; 0.2 (a test): applied" in report


def test_it_is_refused_by_name(tiny_config, tmp_path):
    refused = []

    def on_step(trainer, row):
        if row["step"] == 2:
            trainer.controls.request("average_decay", 0.2, "a test")
            for value in (1, -1, "slow", True, float("nan")):
                with pytest.raises(LuminaError, match="average_decay") as caught:
                    trainer.controls.request("average_decay", value, "a test")
                refused.append(caught.value.code)
            with pytest.raises(LuminaError, match="average_decay_") as caught:
                trainer.controls.request("average_decay_", 0.2, "a test")
            refused.append(caught.value.code)

    config = settings(tiny_config, tmp_path / "none")
    config = config.replace(ema_decay=0.0, steps=5, pin=("average_decay",))
    trainer = Trainer(config, on_step=on_step)
    run = trainer.train().run_dir
    assert refused == ["E005"] * 5 + ["E004"]
    (entry,) = journal(run)
    assert entry["outcome"] == "refused: E002 this run keeps no average"
    assert any("pin average_decay has no effect" in x for x in trainer.plan.warnings)


def test_a_run_that_it_changed_does_not_go_on_without_it(tiny_config, tmp_path):
    config = settings(tiny_config, tmp_path / "run")
    assert in_a_process(config.replace(steps=8), tmp_path) == 0
    resumed = start(
        ["train", "--resume", str(tmp_path / "run"), "--steps", "9"], tmp_path / "log"
    )
    assert resumed.wait() == 2
    told = resumed.output
    assert "E002" in told and "average_decay" in told and "--plugins" in told
