"""A rank that holds some rows does to them what one that holds all of them does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from lumina.optim.gate import Verdict
from lumina.optim.gradient_steps.noise import Noise
from lumina.optim.optimizer import Slot
from lumina.optim.sharded import rows_here
from optimizer_steps import SHAPES, gradients, optimizer, slots_of

RANKS = 4


def add_noise(slots: list[Slot]) -> None:
    one, cpu = torch.tensor(1.0), torch.device("cpu")
    options = {"variance": 0.1, "fading": 0.5}
    step = Noise(slots, {}, options, device=cpu)
    step.after(Verdict(one, one, 0 * one))


@dataclass
class Ranks:
    """What `rows_here` asks a DTensor's mesh."""

    rank: int

    def size(self) -> int:
        return RANKS

    def get_local_rank(self) -> int:
        return self.rank


def parts_of(slot: Slot, rank: int) -> Slot:
    """A slot that holds the rows of a rank; its parameter knows the whole shape."""
    parameter = nn.Parameter(slot.parameter.detach().clone())
    parameter.placements, parameter.device_mesh = (), Ranks(rank)  # type: ignore[attr-defined]
    master = parameter.detach()[rows_here(parameter)].clone()
    return Slot(slot.name, parameter, master, slot.decay, slot.pieces,
                accumulator=torch.zeros_like(master))  # fmt: skip


def step(made: Any, skip: float = 0.0) -> None:
    made.step(
        lr=torch.tensor(1e-2),
        weight_decay=0.1,
        divisor=torch.tensor(2.0),
        skip=torch.tensor(skip),
    )


def test_rows_are_divided_as_fsdp2_divides_them() -> None:
    for rows in (1, 3, 4, 9, 14):
        whole = nn.Parameter(torch.arange(float(rows)))
        found = []
        for rank, chunk in enumerate(whole.detach().chunk(RANKS)):
            whole.placements, whole.device_mesh = (), Ranks(rank)  # type: ignore[attr-defined]
            assert torch.equal(whole.detach()[rows_here(whole)], chunk)
            found.append(chunk)
        whole.device_mesh = Ranks(RANKS - 1)  # type: ignore[attr-defined]
        here = rows_here(whole)
        assert here.stop == rows and 0 <= here.start <= rows


@pytest.mark.parametrize(
    "name", ["sgd", "lion", "schedule_free", "adamw_bf16", "adamw_8bit", "adamw_4bit"]
)
def test_a_step_of_some_rows_is_that_of_the_whole(name: str) -> None:
    """To the bit, random rounding and blocks of codes too."""
    names = [n for n in SHAPES if n != "norm" or "bit" not in name]
    whole = slots_of(names)
    one = optimizer(name, whole)
    ranks = [[parts_of(slot, rank) for slot in whole] for rank in range(RANKS)]
    others = [optimizer(name, slots) for slots in ranks]
    for number in range(3):
        grads = gradients(whole, number)
        for slot, grad in zip(whole, grads, strict=True):
            slot.parameter.grad = grad.clone()
        step(one)
        for slots, other in zip(ranks, others, strict=True):
            for slot, grad in zip(slots, grads, strict=True):
                slot.accumulator = grad[rows_here(slot.parameter)].clone()
            step(other)
    for n, slot in enumerate(whole):
        assert torch.equal(torch.cat([r[n].master for r in ranks]), slot.master)
        for key, value in slot.state.items():
            rows = torch.cat([r[n].state[key] for r in ranks])
            assert torch.equal(rows, value), (slot.name, key)


def test_noise_on_some_rows_is_that_of_the_whole() -> None:
    whole = slots_of()
    for slot in whole:
        slot.parameter.grad = torch.zeros_like(slot.parameter)
    add_noise(whole)
    for rank in range(RANKS):
        slots = [parts_of(slot, rank) for slot in whole]
        add_noise(slots)
        for slot, full in zip(slots, whole, strict=True):
            assert full.parameter.grad is not None
            rows = full.parameter.grad[rows_here(slot.parameter)]
            assert torch.equal(slot.gradient(), rows), slot.name
