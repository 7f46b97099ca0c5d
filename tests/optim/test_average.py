"""The moving average of weights is the one written down."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lumina.optim.averages.lookahead import Lookahead
from lumina.optim.averages.moving import WeightAverage
from lumina.optim.averages.stochastic import StochasticAverage
from lumina.optim.optimizer import Slot

TAKEN, SKIPPED = torch.tensor(0.0), torch.tensor(1.0)


def average_of(slot, decay):
    return WeightAverage([slot], decay, device=torch.device("cpu"))


def slot_of(values, dtype=torch.float32):
    master = torch.tensor(values)
    parameter = nn.Parameter(master.to(dtype))
    if dtype == torch.float32:
        master = parameter.detach()
    return Slot("w", parameter, master, decay=False)


@pytest.mark.covers("TRN-10: exponential moving average of weights")
@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_it_is_the_naive_average(decay):
    slot = slot_of([1.0, -2.0])
    average = average_of(slot, decay)
    naive = slot.master.double()
    for n in range(60):
        slot.master.mul_(0.9).add_(n)
        average.update(TAKEN)
        d = min(decay, (1 + n) / (10 + n))
        naive = d * naive + (1 - d) * slot.master.double()
    torch.testing.assert_close(average.averages[0].double(), naive, rtol=1e-6, atol=0)


@pytest.mark.covers(
    "TRN-10: exponential moving average of weights", "TRN-25: NaN/Inf guard"
)
def test_a_skipped_step_is_no_update():
    slot = slot_of([1.0, -2.0])
    average, other = average_of(slot, 0.99), average_of(slot, 0.99)
    for n in range(20):
        slot.master.add_(n)
        average.update(TAKEN)
        other.update(TAKEN)
        average.update(SKIPPED)
        assert torch.equal(average.averages[0], other.averages[0])
    assert average.updates == other.updates == 20


@pytest.mark.covers("TRN-10: exponential moving average of weights")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_applying_it_gives_the_weights_back(dtype):
    slot = slot_of([1.0, 2.0], dtype)
    average = average_of(slot, 0.9)
    slot.master.add_(1.0)
    slot.parameter.data.copy_(slot.master)
    average.update(TAKEN)
    with pytest.raises(RuntimeError), average.applied():
        assert torch.equal(slot.parameter, average.averages[0].to(dtype))
        assert slot.parameter.tolist() != [2.0, 3.0]
        raise RuntimeError
    assert torch.equal(slot.parameter, slot.master.to(dtype))
    assert slot.master.tolist() == [2.0, 3.0]


def moved(slot, n):
    """The masters take a step of their own."""
    slot.master.mul_(0.9).add_(n)


@pytest.mark.covers("TRN-11")
def test_the_stochastic_average_is_the_mean_of_the_last_steps():
    """Of the steps that were taken; until they begin, it is the masters."""
    slot = slot_of([1.0, -2.0])
    average = StochasticAverage([slot], 4, device=torch.device("cpu"))
    seen = []
    for n, skip in enumerate((0, 0, 1, 0, 0, 0, 1, 0, 0)):
        if not skip:
            moved(slot, n)
            seen.append(slot.master.double())
        before = average.averages[0].clone()
        average.update(SKIPPED if skip else TAKEN)
        if skip:
            assert torch.equal(average.averages[0], before)
        wanted = seen[-1] if len(seen) <= 4 else torch.stack(seen[4:]).mean(0)
        torch.testing.assert_close(average.averages[0].double(), wanted)
    assert len(seen) == 7


@pytest.mark.covers("TRN-09")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lookahead_is_the_naive_one(dtype):
    """Algorithm 1 of arXiv:1907.08610; skipped steps do not count."""
    slot = slot_of([1.0, -2.0], dtype)
    average = Lookahead([slot], 3, 0.5, device=torch.device("cpu"))
    near = {"rtol": 1e-6, "atol": 1e-6}
    slow, fast, taken = slot.master.double(), slot.master.double(), 0
    for n, skip in enumerate((0, 0, 1, 0, 1, 0, 0, 0, 0)):
        if not skip:
            moved(slot, n)
            slot.write_back()
            fast = 0.9 * fast + n
            taken += 1
            if taken % 3 == 0:
                slow = slow + 0.5 * (fast - slow)
                fast = slow.clone()
        before = slot.master.clone()
        average.update(SKIPPED if skip else TAKEN)
        assert not skip or torch.equal(slot.master, before)
        torch.testing.assert_close(average.averages[0].double(), slow, **near)
        torch.testing.assert_close(slot.master.double(), fast, **near)
        assert torch.equal(slot.parameter.detach(), slot.master.to(dtype))
    assert taken == 7
