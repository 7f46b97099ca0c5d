"""The time in a step's row is the step's own, whenever its numbers are read."""

from __future__ import annotations

import time

import pytest
import torch

from lumina.train import clock
from lumina.train.ring import MetricRing
from stand_ins import stand_in


class Moments:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


def test_rows_read_together_have_the_times_of_their_own_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moments = Moments()
    monkeypatch.setattr(
        clock, "time", stand_in(time, perf_counter=moments.perf_counter)
    )
    ring = MetricRing(cuda=False)
    for length in (0.5, 2.0):
        moments.now += length
        ring.push({}, torch.zeros(1))
    moments.now += 7.0  # an evaluation, before anybody reads the rows
    seconds = [row["step_seconds"] for row, _ in ring.pop(leave=0)]
    assert seconds == [0.5, 2.0]


def test_what_came_before_a_restart_is_not_part_of_the_next_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moments = Moments()
    monkeypatch.setattr(
        clock, "time", stand_in(time, perf_counter=moments.perf_counter)
    )
    ring = MetricRing(cuda=False)
    moments.now += 7.0
    ring.clock.restart()
    moments.now += 0.25
    ring.push({}, torch.zeros(1))
    assert [row["step_seconds"] for row, _ in ring.pop(leave=0)] == [0.25]


@pytest.mark.gpu
def test_the_host_running_ahead_does_not_shorten_a_steps_time() -> None:
    """Four steps are launched before any is read; each holds the device busy."""
    cycles = 40_000_000
    ring = MetricRing(cuda=True)
    for _ in range(4):
        torch.cuda._sleep(cycles)
        ring.push({}, torch.zeros(1, device="cuda"))
    least = cycles / 3e9  # no card's clock is faster than 3 GHz
    for row, _ in ring.pop(leave=0):
        assert row["step_seconds"] >= least
