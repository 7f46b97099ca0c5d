"""The moving average of weights is the one written down."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lumina.optim.adamw import Slot
from lumina.optim.average import WeightAverage


def slot_of(values, dtype=torch.float32):
    master = torch.tensor(values)
    parameter = nn.Parameter(master.to(dtype))
    if dtype == torch.float32:
        master = parameter.detach()
    zeros = torch.zeros_like(master)
    return Slot("w", parameter, master, zeros, zeros.clone(), decay=False)


@pytest.mark.covers("TRN-10")
@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_it_is_the_naive_average(decay):
    slot = slot_of([1.0, -2.0])
    average = WeightAverage([slot], decay)
    naive = slot.master.double()
    for n in range(60):
        slot.master.mul_(0.9).add_(n)
        average.update()
        d = min(decay, (1 + n) / (10 + n))
        naive = d * naive + (1 - d) * slot.master.double()
    torch.testing.assert_close(average.averages[0].double(), naive, rtol=1e-6, atol=0)


@pytest.mark.covers("TRN-10")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_applying_it_gives_the_weights_back(dtype):
    slot = slot_of([1.0, 2.0], dtype)
    average = WeightAverage([slot], 0.9)
    slot.master.add_(1.0)
    slot.parameter.data.copy_(slot.master)
    average.update()
    with pytest.raises(RuntimeError), average.applied():
        assert torch.equal(slot.parameter, average.averages[0].to(dtype))
        assert slot.parameter.tolist() != [2.0, 3.0]
        raise RuntimeError
    assert torch.equal(slot.parameter, slot.master.to(dtype))
    assert slot.master.tolist() == [2.0, 3.0]
