"""A row of metrics.jsonl: the figures that are reckoned, from a clock that is told."""

from __future__ import annotations

import io
import math
import time

import pytest
import torch

from lumina.observe.console import Console
from lumina.train import clock
from lumina.train.recorder import Recorder
from lumina.train.ring import MetricRing
from lumina.train.step import SCALARS
from programs import tiny_plan
from stand_ins import stand_in

H100 = 989e12
"""Its dense bf16 operations a second."""


def row(tmp_path, monkeypatch, loss=1.5, device_name="NVIDIA H100", **plan):
    """A step of 6,000 tokens that ended a quarter of a second after the one before."""
    now = [100.0]
    monkeypatch.setattr(clock, "time", stand_in(time, perf_counter=lambda: now[0]))
    ring = MetricRing(cuda=False)
    now[0] += 0.25
    known = {"step": 7, "tokens": 42_000, "epoch": 0.5, "learning_rate": 1e-3}
    known |= {"data_wait_seconds": 0.01, "step_tokens": 6000, "loss_tokens": 6000}
    values = {"loss": loss, "grad_norm": 0.75, "skipped": 0.0}
    ring.push(known, torch.tensor([values.get(name, 0.0) for name in SCALARS]))
    now[0] += 5.0  # read late: no part of the step
    [(known, numbers)] = ring.pop(leave=0)
    plan = {"compute_dtype": "bfloat16", "flops_per_token": 1e9} | plan
    decided = tiny_plan().replace(**plan)
    recorder = Recorder(
        tmp_path,
        decided,
        Console(stream=io.StringIO(), live=False),
        main=False,
        device_name=device_name,
    )
    return recorder.row(decided, known, numbers)


@pytest.mark.covers(
    "MON-01: train_loss",
    "MON-01: perplexity",
    "MON-01: gradient_norm",
    "MON-02: tokens_per_second",
    "MON-02: mfu",
    "MON-02: step_time",
)
def test_rates_are_those_of_the_step(tmp_path, monkeypatch):
    found = row(tmp_path, monkeypatch)
    assert found["step_seconds"] == 0.25
    assert found["tokens_per_second"] == 24_000
    assert found["mfu"] == pytest.approx(24_000 * 1e9 / H100)
    assert (found["step"], found["tokens"], found["loss"]) == (7, 42_000, 1.5)
    assert found["perplexity"] == pytest.approx(math.e**1.5)
    assert found["grad_norm"] == 0.75
    assert found["loss_tokens"] == 6000
    assert "step_tokens" not in found


@pytest.mark.covers("MON-02: mfu")
def test_utilisation_is_of_all_devices_and_of_the_precision(tmp_path, monkeypatch):
    two = row(tmp_path, monkeypatch, world_size=2, micro_batch_size=4)
    assert two["mfu"] == pytest.approx(24_000 * 1e9 / H100 / 2)
    tf32 = row(tmp_path, monkeypatch, tf32=True, compute_dtype="float32")
    assert tf32["mfu"] == pytest.approx(24_000 * 1e9 / 494e12)
    assert row(tmp_path, monkeypatch, device_name="some card")["mfu"] is None


def test_a_loss_too_large_for_a_perplexity_has_an_infinite_one(tmp_path, monkeypatch):
    assert row(tmp_path, monkeypatch, loss=800.0)["perplexity"] == math.inf
