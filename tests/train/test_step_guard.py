"""Where a rank that is short of memory can still tell the others, without ranks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lumina.train.memory_ladder.guard import SETTLES, StepGuard


class Everyone:
    """A group of two, of which this rank alone is here."""

    size = 2

    def __init__(self) -> None:
        self.said: list[bool] = []
        self.waits: list[float] = []

    def any_(self, mine: bool) -> bool:
        self.said.append(mine)
        return mine


def _program(*, meets_in_forward: bool) -> Any:
    return SimpleNamespace(
        meets_in_forward=meets_in_forward,
        mesh=SimpleNamespace(everyone=Everyone()),
        network=SimpleNamespace(backbone=torch.nn.Linear(2, 2)),
    )


@pytest.mark.parametrize("forwards", [1, 2])
def test_a_rank_that_exchanges_in_its_forward_tells_the_others_after_it(
    forwards: int,
) -> None:
    """Inside the forward pass it cannot, and they would wait for it."""
    program = _program(meets_in_forward=True)
    guard = StepGuard()
    guard.begin(program, forwards)
    for number in range(forwards):
        last = number == forwards - 1
        guard.before_forward(last)
        assert not guard.tell_others()
        program.network.backbone(torch.ones(2))
        if not last:
            guard.before_backward(last)
    assert guard.tell_others()  # the loss has no room
    assert program.mesh.everyone.said == [False] * (forwards - 1) + [True]
    assert not guard.tell_others()  # once a forward


def test_ranks_that_hold_the_model_agree_twice_until_buckets_settle() -> None:
    program = _program(meets_in_forward=False)
    guard, said = StepGuard(), []
    for _ in range(SETTLES + 1):
        program.mesh.everyone.said.clear()
        guard.begin(program, 1)
        guard.before_forward(True)
        program.network.backbone(torch.ones(2))
        guard.before_backward(True)
        said.append(len(program.mesh.everyone.said))
    assert said == [2] * SETTLES + [1]
