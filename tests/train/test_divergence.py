"""Numbers that are not finite, met in a run."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lumina import Trainer
from lumina.errors import LuminaError
from lumina.features.registry import FEATURES
from lumina.state.reader import latest_good, open_checkpoint
from lumina.train.loop import DIVERGED_AFTER
from mechanisms import mechanism
from training import checkpoints, column, events, rows


class Once(torch.nn.Module):
    """A model whose next loss is infinite."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.left = 1

    def forward(self, batch):
        losses, aux = self.model(batch)
        if self.left and self.training:
            self.left -= 1
            losses.loss_sum = losses.loss_sum * float("inf")
        return losses, aux


@mechanism(
    "infinite loss in one step",
    component="step",
    failure="the loss of one step is infinite",
    recovery="leave out",
    expected="the weights do not change in that step, an event (E302) says so, and the "
    "run goes on",
    real=False,
)
@pytest.mark.covers("TRN-25: NaN/Inf guard")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_bad_step_is_left_out_and_told(tiny_config, precision):
    def on_step(trainer, row):
        if row["step"] == 3:
            trainer.program.model = Once(trainer.program.model)

    config = tiny_config.replace(precision=precision, ema_decay=0.5)
    run = Trainer(config, on_step=on_step).train().run_dir
    assert column(run, "skipped") == [0, 0, 0, 1, 1, 1, 1, 1, 1, 1]
    assert column(run, "loss")[3] is None  # strict JSON has no infinity
    assert all(loss is not None for loss in column(run, "loss")[4:])
    (told,) = events(run, "step_skipped")
    assert told["step"] == 4 and told["severity"] == "warning"
    assert told["code"] == "E302"
    assert told["message"].startswith("the loss and the gradients were not finite")
    assert open_checkpoint(latest_good(run)).meta.counters["skipped"] == 1
    # The optimizer took nine steps; the data and the schedule went on.
    assert open_checkpoint(latest_good(run)).meta.extra["optimizer_steps"] == 9
    assert rows(run)[-1]["step"] == 10


@mechanism(
    "float16 overflow",
    component="step",
    failure="gradients overflow under a loss scale that is too large",
    recovery="leave out",
    expected="the scale is halved until they fit; steps left out are counted and told",
    real=False,
)
@pytest.mark.covers("CFG-11: E302 gradient overflow", "TRN-26", "PRC-01: fp16")
def test_gradients_that_overflow_are_told_by_their_code(
    tiny_config, monkeypatch, capfd
):
    """In float16, with a loss scale far too large, until it has halved enough."""
    # Refused on a CPU for being slow; what is computed there is the same.
    able = replace(FEATURES["fp16"], needs=lambda machine: None)
    monkeypatch.setitem(FEATURES, "fp16", able)
    monkeypatch.setattr("lumina.plan.precision.unsupported", lambda *asked: None)
    halved = []

    def on_step(trainer, row):
        scale = trainer.program.loss_scale.value
        if row["step"] == 2:
            scale.fill_(2.0**24)
        halved.append(scale.item())

    config = tiny_config.replace(precision="fp16", steps=20)
    run = Trainer(config, on_step=on_step).train().run_dir
    told = events(run, "step_skipped")
    assert told and {event["code"] for event in told} == {"E302"}
    for event in told:
        assert event["message"] == (
            "the gradients were not finite; the weights did not change, and the loss "
            "scale was halved"
        )
        assert math.isfinite(event["data"]["loss"])
    steps = [event["step"] for event in told]
    assert steps[0] == 3 and len(steps) < 15
    assert halved[-1] == 2.0 ** (24 - len(steps))
    assert column(run, "skipped")[-1] == len(steps)
    assert "E302" in "".join(capfd.readouterr())


@mechanism(
    "no finite gradient any more",
    component="step",
    failure="an infinite learning rate: gradients stay non-finite",
    recovery="refuse",
    expected="E301 after 50 steps; no checkpoint of broken weights replaces the good "
    "one",
    real=False,
)
@pytest.mark.covers("CFG-11: E301 divergence")
def test_a_run_that_stays_broken_ends_with_a_code(tiny_config):
    def on_step(trainer, row):
        if row["step"] == 6:
            trainer.program.live.learning_rate_scale = float("inf")

    config = tiny_config.replace(steps=500, save_every_n_batches=5)
    config = config.replace(save_total_limit=1)
    with pytest.raises(LuminaError) as caught:
        Trainer(config, on_step=on_step).train()
    assert caught.value.code == "E301" and "--auto-resume" in caught.value.hint
    run = Path(tiny_config.run.run_dir)
    broken = [row for row in rows(run) if row["loss"] is None]
    assert len(broken) == DIVERGED_AFTER
    assert events(run, "run_failed")[0]["code"] == "E301"
    assert json.loads((run / "status.json").read_text())["status"] == "failed"
    # Nothing was saved over the last good one, though only one is kept.
    assert checkpoints(run) == ["step-00000005"]
