"""Weights in 16 bits without masters: how they are rounded, under each optimizer."""

from __future__ import annotations

import pytest
import torch

from lumina.optim.declared import chosen_optimizer, known_optimizers
from lumina.optim.held_weights import HeldSlot
from lumina.optim.optimizer import Slot
from lumina.optim.rounding import rounded_to
from optimizer_steps import MATRICES, SHAPES, gradients, optimizer, slots_of, take

HALF = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("value", [0.3, -0.3, 3e-5, -1e-7, 0.0])
def test_the_mean_of_rounded_values_is_the_value(
    dtype: torch.dtype, value: float
) -> None:
    """3e-5 and 1e-7 lie below the normal values of float16."""
    count = 20_000
    values = torch.full((count,), value)
    bits = torch.randint(
        2**16, (count,), dtype=torch.int32, generator=torch.Generator().manual_seed(0)
    )
    found = rounded_to(values, bits, dtype)
    assert found.dtype == dtype
    near = found.float().unique()
    assert len(near) <= 2
    step = float(near.max() - near.min())
    # Four standard deviations of the mean of two values that lie a step apart.
    allowed = 2 * step / count**0.5 + 1e-12
    assert float(found.double().mean()) == pytest.approx(value, abs=allowed)


@pytest.mark.parametrize("dtype", HALF)
def test_what_16_bits_hold_is_not_changed(dtype: torch.dtype) -> None:
    values = torch.tensor([0.0, 1.0, -0.375, 6e-8, 1e-6, 60_000.0]).to(dtype).float()
    bits = torch.full((6,), 0xFFFF, dtype=torch.int32)
    assert torch.equal(rounded_to(values, bits, dtype).float(), values)


def test_float16_has_an_end() -> None:
    found = rounded_to(torch.tensor([7e4, -1e9]), torch.zeros(2).int(), torch.float16)
    assert found.tolist() == [65504.0, -65504.0]


def held_slots(names: tuple[str, ...], dtype: torch.dtype) -> tuple[list[Slot], ...]:
    """Slots in 16 bits, and float32 ones of the same values."""
    held: list[Slot] = []
    exact = slots_of(names)
    for slot, half in zip(exact, slots_of(names, dtype), strict=True):
        with torch.no_grad():
            slot.parameter.copy_(half.parameter)
        wide = half.parameter.detach().float()
        held.append(HeldSlot(slot.name, half.parameter, wide, slot.decay, slot.pieces))
    return held, exact


@pytest.mark.parametrize("name", sorted(known_optimizers()))
def test_every_optimizer_moves_them_as_float32_ones(name: str) -> None:
    """By the same amount, to the next value up or down, and keeps nothing widened."""
    declared = chosen_optimizer(name)
    names = tuple(MATRICES if "norm" not in declared.roles else SHAPES)
    if "matrix" not in declared.roles:
        pytest.skip("trains tables, which stay float32")
    held, exact = held_slots(names, torch.bfloat16)
    given = [gradient.bfloat16().float() for gradient in gradients(exact, 0)]
    for slots in (held, exact):
        made = optimizer(name, slots)
        for slot in slots:
            slot.release()
        take(made, given, decay=0.1)
    for slot, wanted in zip(held, exact, strict=True):
        assert slot.parameter.dtype == torch.bfloat16
        assert isinstance(slot, HeldSlot) and slot._wide is None
        found, aim = slot.parameter.detach().float(), wanted.master
        assert not torch.equal(found, aim)
        assert ((found - aim).abs() <= aim.abs() * 2.0**-7 + 1e-8).all()
