"""Experts without a gradient in a step are as they were, under every optimizer."""

from __future__ import annotations

import pytest
import torch

from lumina.optim.declared import chosen_optimizer
from lumina.optim.optimizer import Member, Optimizers
from lumina.optim.resting import RestingExperts
from optimizer_steps import everything, gradients, optimizer, slots_of


def run(name, dtype, rests, idle):
    """What three steps made of all tensors; `idle`: expert 1 of each step or none."""
    slots = slots_of(["experts", "gate_up"], dtype)
    declared = chosen_optimizer(name)
    made = Optimizers(slots, [Member(declared, optimizer(name, slots))])
    if rests:
        made.around = RestingExperts([(slot, declared.states) for slot in slots])
    found = [[everything(slot) for slot in slots]]
    for step in range(3):
        for slot, grad in zip(slots, gradients(slots, step), strict=True):
            if step in idle:
                grad[1] = 0.0
            slot.parameter.grad = grad.to(dtype)
        made.step(
            lr=torch.tensor(0.1),
            weight_decay=0.1,
            divisor=torch.tensor(1.0),
            skip=torch.tensor(0.0),
        )
        made.zero_grad()
        found.append([everything(slot) for slot in slots])
    return found


@pytest.mark.covers("TRN-08: inactive-expert updates skipped as an option")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("name", ["adamw", "adamw_8bit", "lion", "muon"])
def test_one_without_a_gradient_rests(name, dtype):
    plain, lazy = run(name, dtype, False, {1}), run(name, dtype, True, {1})
    for step in (0, 1):  # until then the two runs are one
        assert all(
            torch.equal(a, b)
            for one, two in zip(plain[step], lazy[step], strict=True)
            for a, b in zip(one, two, strict=True)
        )
    moved = 0
    for before, after, driven in zip(lazy[1], lazy[2], plain[2], strict=True):
        for old, new, other in zip(before, after, driven, strict=True):
            assert torch.equal(old[1], new[1])
            assert torch.equal(new[0], other[0])  # the others move as ever
            moved += not torch.equal(other[1], new[1])
    assert moved >= 4  # without resting, weights and moments would have moved
    # With a gradient it moves again.
    assert all(
        not torch.equal(a[0][1], b[0][1]) for a, b in zip(*lazy[2:], strict=True)
    )


def test_where_all_have_gradients_nothing_changes():
    plain, lazy = (
        run("adamw", torch.float32, False, ()),
        run("adamw", torch.float32, True, ()),
    )
    assert all(
        torch.equal(a, b)
        for one, two in zip(plain[-1], lazy[-1], strict=True)
        for a, b in zip(one, two, strict=True)
    )
