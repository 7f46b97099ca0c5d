"""Optimizers on a GPU against themselves on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lumina.optim.declared import chosen_optimizer
from lumina.optim.optimizer import Slot
from lumina.optim.orthogonal import orthogonalised
from lumina.optim.rounding import random_bits
from optimizer_steps import MATRICES, SHAPES, gradients, optimizer, slots_of, take

pytestmark = pytest.mark.gpu

NAMES = (
    "sgd", "lion", "adafactor", "schedule_free", "adamw_bf16", "adamw_8bit",
    "adamw_4bit",
)  # fmt: skip


def on_gpu(slots: list[Slot]) -> list[Slot]:
    found = []
    for slot in slots:
        parameter = nn.Parameter(slot.parameter.detach().cuda())
        exact = parameter.dtype == torch.float32
        master = parameter.detach() if exact else slot.master.cuda()
        found.append(Slot(slot.name, parameter, master, slot.decay, slot.pieces))
    return found


def cuda_optimizer(name: str, slots: list[Slot]) -> Any:
    like = optimizer(name, slots_of(MATRICES))
    return chosen_optimizer(name).cls(slots, like.options, device=torch.device("cuda"))


def step(made: Any, grads: list[torch.Tensor], skip: float = 0.0) -> None:
    for slot, grad in zip(made.slots, grads, strict=True):
        slot.parameter.grad = grad.cuda().to(slot.parameter.dtype)
    scalar = torch.ones((), device="cuda")
    with torch.cuda.device(0):
        torch.cuda.set_sync_debug_mode("error")  # nothing is read back to the host
        try:
            made.step(lr=0.01 * scalar, weight_decay=0.1, divisor=scalar,
                      skip=skip * scalar)  # fmt: skip
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", NAMES)
def test_steps_on_a_gpu_are_those_on_the_cpu(name: str) -> None:
    """And wait for nothing; codes and signs at an edge may fall on either side."""
    here, there = slots_of(MATRICES), on_gpu(slots_of(MATRICES))
    one, two = optimizer(name, here), cuda_optimizer(name, there)
    for number in range(5):
        grads = gradients(here, number)
        take(one, grads, lr=0.01, decay=0.1)
        step(two, grads)
        step(two, [grad * float("nan") for grad in grads], skip=1.0)
    for a, b in zip(here, there, strict=True):
        gaps = (a.master - b.master.cpu()).abs()
        assert gaps.median() < 1e-5, a.name
        assert (gaps > 1e-3).float().mean() < 0.02, a.name


ODD = {"wide": ((33, 600), None), "odd": ((7, 1301), None)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["adamw_bf16", "adamw_8bit", "adamw_4bit"])
def test_one_kernel_takes_the_step_of_the_reference(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same codes and random bits, for rows of any length; skipped steps too."""
    monkeypatch.setattr("optimizer_steps.SHAPES", ODD | SHAPES)
    names = (*ODD, *MATRICES)
    one, two = (on_gpu(slots_of(names, dtype)) for _ in range(2))
    plain, fused = cuda_optimizer(name, one), cuda_optimizer(name, two)
    plain.fused = False
    assert fused.fused
    for number in range(5):
        grads = gradients(one, number)
        for made in (plain, fused):
            step(made, grads)
            step(made, [grad * float("nan") for grad in grads], skip=1.0)
    for a, b in zip(one, two, strict=True):
        # Where the last bit of a sum differs, a code or a rounding at an edge may too.
        assert ((a.master - b.master).abs() > 1e-5).float().mean() < 1e-2, a.name
        assert torch.equal(b.parameter.detach(), b.master.to(dtype)), b.name
        for state, held in a.state.items():
            gaps = (held.float() - b.state[state].float()).abs()
            assert (gaps > 1e-5 * held.float().abs()).float().mean() < 1e-2, state


def test_random_bits_are_the_same_everywhere() -> None:
    step_number = torch.tensor(7.0)
    for first in (0, 2**32 - 50):
        here = random_bits("w", step_number, first, 100)
        assert torch.equal(random_bits("w", step_number.cuda(), first, 100).cpu(), here)


@pytest.mark.parametrize(
    ("name", "iterations", "near"), [("quintic", 5, 0.45), ("polar_express", 8, 0.1)]
)
def test_bfloat16_is_enough_to_make_a_matrix_orthogonal(
    name: str, iterations: int, near: float
) -> None:
    matrices = torch.randn(2, 256, 128, device="cuda")
    found = orthogonalised(matrices, name, iterations)
    assert found.dtype == torch.float32
    values = torch.linalg.svdvals(found)
    assert (values - 1).abs().max() < near


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_muon_on_a_gpu_is_near_the_one_on_the_cpu(dtype: torch.dtype) -> None:
    here = slots_of(MATRICES, dtype)
    there = on_gpu(slots_of(MATRICES, dtype))
    one, two = optimizer("muon", here), cuda_optimizer("muon", there)
    for number in range(3):
        grads = gradients(here, number)
        take(one, grads, lr=0.01, decay=0.1)
        step(two, grads)
        step(two, [grad * float("nan") for grad in grads], skip=1.0)
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(a.master, b.master.cpu(), rtol=0, atol=2e-3)
        assert torch.equal(b.parameter.detach(), b.master.to(dtype))
