"""Float8 products with scales of rows on tensor cores, and sums of 16,384 terms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lumina.ops import float8
from lumina.ops.float8.linear import FORWARD
from lumina.ops.float8.scaled import (
    grouped_product,
    product,
    scaled,
    scaled_rows,
    widened_grouped_product,
    widened_product,
)
from lumina.plan.environment import probe

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def able() -> None:
    if (probe("cuda").capability or (0, 0)) < (9, 0):
        pytest.skip("float8 needs compute capability 9.0")


def both(function: Callable[..., torch.Tensor], *shapes: Any) -> list[Any]:
    """Result and gradients of a function, on the CPU and on the GPU."""
    drawn = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=drawn).bfloat16() for shape in shapes]
    found = []
    for device in ("cpu", "cuda"):
        here = [one.to(device, copy=True).requires_grad_() for one in values]
        y = function(*here)
        weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        y.backward(weights.bfloat16().to(device))
        grads = [one.grad for one in here]
        found.append([one.detach().float().cpu() for one in (y, *grads)])
    return found


@pytest.mark.parametrize("rows", [32, 21])
@pytest.mark.parametrize("way", ["e4m3", "hybrid"])
def test_a_layer_is_that_of_the_cpu(way: str, rows: int) -> None:
    found = both(lambda x, w: float8.linear_by_rows(x, w, way), (2, rows, 64), (96, 64))
    for here, there in zip(*found, strict=True):
        assert (here - there).norm() < 5e-3 * here.norm()


@pytest.mark.parametrize("scale", [scaled, scaled_rows])
def test_matrices_are_those_of_the_cpu(scale: Any) -> None:
    """To the bit, though many of 16 bits lie half-way between two of 8."""
    drawn = torch.Generator().manual_seed(0)
    matrix = torch.randn(512, 512, generator=drawn).bfloat16()
    here, there = scale(matrix, FORWARD), scale(matrix.cuda(), FORWARD)
    assert torch.equal(here.scale, there.scale.cpu())
    assert torch.equal(here.values.float(), there.values.float().cpu())


def test_experts_are_those_of_the_cpu() -> None:
    """Sizes that are no multiples of anything, and an expert without rows."""
    ends = torch.tensor([5, 5, 47, 160]).int()

    def through(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return float8.grouped_linear_by_rows(x, weight, ends.to(x.device))

    found = both(through, (160, 64), (4, 96, 64))
    for here, there in zip(*found, strict=True):
        assert (here - there).norm() < 5e-3 * here.norm()


def test_grouped_products_are_those_of_the_widened_values() -> None:
    drawn = torch.Generator("cuda").manual_seed(0)
    a = scaled_rows(torch.randn(160, 64, device="cuda", generator=drawn), FORWARD)
    b = scaled_rows(torch.randn(4, 96, 64, device="cuda", generator=drawn), FORWARD)
    ends = torch.tensor([5, 5, 47, 160], device="cuda").int()
    exact = widened_grouped_product(a, b, ends, torch.bfloat16).float()
    for quick, near in ((False, 2e-3), (True, 1e-2)):
        found = grouped_product(a, b, ends, torch.bfloat16, quick_sums=quick).float()
        assert (found - exact).norm() < near * exact.norm()


@pytest.mark.covers("KRN-17: scaled matrix multiply")
@pytest.mark.parametrize("scale", [scaled, scaled_rows])
def test_slow_sums_of_16384_terms_are_near_float64(scale: Any) -> None:
    """Of positive values, whose sum grows with every term: the hard case.

    Quick sums are printed: those with scales of rows were off by a quarter, and nothing
    uses them.
    """
    length = 16_384
    drawn = torch.Generator("cuda").manual_seed(0)
    a = scale(torch.rand(64, length, device="cuda", generator=drawn), FORWARD)
    b = scale(torch.rand(64, length, device="cuda", generator=drawn), FORWARD)
    exact = (a.values.double() * a.scale) @ (b.values.double() * b.scale).T
    errors = {}
    for quick in (False, True):
        found = product(a, b.mT, torch.bfloat16, quick_sums=quick).double()
        errors[quick] = float((found / exact - 1).square().mean().sqrt())
    widened = widened_product(a, b.mT, torch.bfloat16).double()
    rounding = float((widened / exact - 1).square().mean().sqrt())
    print(f"{scale.__name__}: slow {errors[False]:.2e}, quick {errors[True]:.2e}, "
          f"rounding to bfloat16 {rounding:.2e}")  # fmt: skip
    assert errors[False] < 2 * rounding


@pytest.mark.parametrize("experts", [False, True])
def test_compiled_it_is_the_same(experts: bool) -> None:
    drawn = torch.Generator("cuda").manual_seed(0)
    shape = (4, 96, 64) if experts else (96, 64)
    x = torch.randn(160, 64, device="cuda", generator=drawn).bfloat16()
    weight = torch.randn(shape, device="cuda", generator=drawn).bfloat16()
    ends = torch.tensor([5, 5, 47, 160], device="cuda").int()

    def through(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if experts:
            return float8.grouped_linear_by_rows(x, weight, ends)
        return float8.linear_by_rows(x, weight, "hybrid")

    results = []
    for function in (through, torch.compile(through, fullgraph=True)):
        a, b = x.clone().requires_grad_(), weight.clone().requires_grad_()
        y = function(a, b)
        y.sum().backward()
        results.append([y.detach(), a.grad, b.grad])
    for plain, compiled in zip(*results, strict=True):
        assert (plain - compiled).norm() < 5e-3 * plain.norm()
