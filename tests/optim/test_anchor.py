"""The pull towards the weights that training began with."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lumina.errors import LuminaError
from lumina.optim.anchor import BaseWeights
from lumina.optim.optimizer import Slot


def slots(dtype: torch.dtype = torch.float32) -> list[Slot]:
    found = []
    for name, shape in (("matrix", (3, 4)), ("vector", (5,))):
        master = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        parameter = nn.Parameter(master.to(dtype) if dtype != master.dtype else master)
        found.append(Slot(name, parameter, master, decay=len(shape) > 1))
    return found


@pytest.mark.covers("DAT-13: penalty toward base weights")
def test_a_share_of_the_distance_is_taken_back_from_matrices_alone() -> None:
    mine = slots()
    before = [slot.master.clone() for slot in mine]
    base = BaseWeights(mine, rate=50.0)
    for slot in mine:
        slot.master.add_(0.5)
    size = before[0].norm().item()
    assert base.distance(None) == pytest.approx(0.5 * 12**0.5 / size, rel=1e-5)
    base.pull(torch.tensor(4e-3), torch.tensor(1.0))  # a step that is skipped
    assert torch.equal(mine[0].master, before[0] + 0.5)
    base.pull(torch.tensor(4e-3), torch.tensor(0.0))
    assert torch.allclose(mine[0].master, before[0] + 0.5 * (1 - 0.2))
    assert torch.equal(mine[1].master, before[1] + 0.5)
    base.pull(torch.tensor(9.0), torch.tensor(0.0))  # never beyond the copy
    assert torch.allclose(mine[0].master, before[0])


def test_a_base_without_a_whole_matrix_is_refused() -> None:
    vector = slots()[1:]
    with pytest.raises(LuminaError, match=r"E002.*no matrix trains as a whole"):
        BaseWeights(vector, rate=1.0)


def test_half_precision_weights_follow_where_the_optimizer_does_not() -> None:
    mine = slots(torch.bfloat16)
    base = BaseWeights(mine, rate=1.0)
    mine[0].master.add_(1.0)
    base.pull(torch.tensor(0.5), torch.tensor(0.0))
    assert torch.equal(mine[0].parameter, mine[0].master.to(torch.bfloat16))
