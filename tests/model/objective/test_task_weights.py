"""Weights of tasks: those asked for, or dynamic weight averaging as it is written."""

from __future__ import annotations

import math

import pytest
import torch

from lumina.model.objective.task_weights import TaskWeights
from lumina.model.spec import TaskSpec

CPU, GO, SKIP = torch.device("cpu"), torch.zeros(()), torch.ones(())
WINDOW = 3


def new(asked=(0.4, 0.3, 0.3), balancing="dwa"):
    tasks = TaskSpec(("a", "b", "c"), asked, balancing, WINDOW)
    return TaskWeights(tasks, CPU)


def as_written(means, asked):
    """Liu et al., equation 7, times what was asked for, together one."""
    if len(means) < 2:
        return list(asked)
    pace = [now / before for before, now in zip(means[-2], means[-1], strict=True)]
    weights = [w * math.exp(p / 2.0) for w, p in zip(asked, pace, strict=True)]
    return [w / sum(weights) for w in weights]


@pytest.mark.parametrize("asked", [(0.4, 0.3, 0.3), ()])
def test_weights_follow_the_pace_of_each_loss(asked):
    weights, base = new(asked), asked or (1 / 3, 1 / 3, 1 / 3)
    generator = torch.Generator().manual_seed(int(torch.randint(0, 2**20, ())))
    means = []
    for _ in range(5):
        steps = torch.rand(WINDOW, 3, 2, generator=generator) * 9 + 1
        for step in steps:
            wanted = torch.tensor(as_written(means, base))
            torch.testing.assert_close(weights.now, wanted)
            weights.update(step, GO)
        loss, tokens = steps.double().sum(0).unbind(1)
        means.append((loss / tokens).tolist())
    assert weights.now.sum().item() == pytest.approx(1.0)


def test_a_loss_that_falls_more_slowly_weighs_more():
    weights = new((1 / 3, 1 / 3, 1 / 3))
    for losses in ((8.0, 8.0, 8.0), (4.0, 8.0, 6.0)):
        for _ in range(WINDOW):
            weights.update(torch.tensor([[x * 10, 10.0] for x in losses]), GO)
    fast, still, middle = weights.now.tolist()
    assert fast < middle < still


def test_a_skipped_step_and_a_task_without_tokens_say_nothing():
    told, untold = new(), new()
    for losses in ((8.0, 8.0, 8.0), (4.0, 8.0, 6.0), (3.0, 0.0, 6.0)):
        for _ in range(WINDOW):
            tokens = [10.0, 10.0 if losses[1] else 0.0, 10.0]
            rows = [[x * n, n] for x, n in zip(losses, tokens, strict=True)]
            told.update(torch.tensor(rows), GO)
            untold.update(torch.tensor(rows), GO)
    assert torch.isfinite(told.now).all()
    # Not finite, and skipped: a step of the window, but not of its mean.
    for step in range(WINDOW):
        bad = step == 1
        row = torch.full((3, 2), math.nan) if bad else torch.tensor([[20.0, 10.0]] * 3)
        told.update(row, SKIP if bad else GO)
        untold.update(torch.tensor([[20.0, 10.0]] * 3), GO)
    torch.testing.assert_close(told.now, untold.now)


def test_without_balancing_they_stay_and_a_state_goes_on():
    still = new(balancing="none")
    for _ in range(9):
        still.update(torch.rand(3, 2), GO)
    assert still.now.tolist() == pytest.approx([0.4, 0.3, 0.3])
    one = new()
    steps = torch.rand(13, 3, 2) + 1
    for step in steps[:8]:
        one.update(step, GO)
    other = new()
    other.load(one.state())
    for step in steps[8:]:
        assert torch.equal(one.now, other.now)
        one.update(step, GO)
        other.update(step, GO)
    assert torch.equal(one.now, other.now)
