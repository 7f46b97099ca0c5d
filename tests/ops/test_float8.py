"""Float8 products against float32 ones of the same values, with gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lumina.ops import float8
from lumina.ops.float8.linear import FORWARD, GRADIENTS
from lumina.ops.float8.scaled import (
    grouped_product,
    product,
    scaled,
    scaled_rows,
)


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_scaled_matrix_uses_the_whole_range_of_its_type(dtype: torch.dtype) -> None:
    matrix = 1e-6 * normal(32, 48, seed=0)
    small = scaled(matrix, dtype)
    assert small.values.float().abs().max() == torch.finfo(dtype).max
    bits = {torch.float8_e4m3fn: 3, torch.float8_e5m2: 2}[dtype]
    # Half of the last bit, and half of the smallest step near 0.
    allowed = matrix.abs() * 2.0 ** -(bits + 1)
    allowed = allowed + 0.5 * torch.finfo(dtype).smallest_normal * 2.0**-bits * (
        small.scale * 1.01
    )
    assert ((small.widened() - matrix).abs() <= allowed).all()


@pytest.mark.parametrize("way", ["e4m3", "hybrid"])
@pytest.mark.parametrize("rows", [16, 21])
def test_a_layer_and_its_gradients_are_products_of_rounded_matrices(
    way: str, rows: int
) -> None:
    x = normal(3, rows, 32, seed=1).requires_grad_()
    weight = (0.1 * normal(48, 32, seed=2)).requires_grad_()
    gradient = 1e-4 * normal(3, rows, 48, seed=3)
    y = float8.linear(x, weight, way)
    y.backward(gradient)
    x8 = scaled(x.detach().flatten(0, 1), FORWARD).widened()
    w8 = scaled(weight.detach(), FORWARD).widened()
    g8 = scaled(gradient.flatten(0, 1), GRADIENTS[way]).widened()
    assert x.grad is not None and weight.grad is not None
    torch.testing.assert_close(y.detach().flatten(0, 1), x8 @ w8.T)
    torch.testing.assert_close(x.grad.flatten(0, 1), g8 @ w8)
    torch.testing.assert_close(weight.grad, g8.T @ x8)
    exact = torch.nn.functional.linear(x, weight)
    assert (y - exact).norm() / exact.norm() < 0.04
    # Two bits of mantissa are coarser than three.
    error = (weight.grad - gradient.flatten(0, 1).T @ x.detach().flatten(0, 1)).norm()
    assert (error / weight.grad.norm() > 0.04) == (way == "hybrid")


def test_what_is_not_finite_stays_so() -> None:
    """The gate then skips the step, as it does in other types."""
    x = normal(16, 16, seed=0)
    weight = normal(16, 16, seed=1).requires_grad_()
    gradient = torch.zeros(16, 16)
    gradient[0, 0] = torch.inf
    float8.linear(x, weight, "hybrid").backward(gradient)
    assert weight.grad is not None and not weight.grad.isfinite().all()


def test_zeros_stay_zeros() -> None:
    weight = normal(16, 16, seed=1).requires_grad_()
    y = float8.linear(torch.zeros(4, 16), weight, "e4m3")
    y.sum().backward()
    assert not y.any() and weight.grad is not None and not weight.grad.any()


def quantised(matrix: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Each row in float8 and back, in float64, value by value: the reference."""
    most = torch.finfo(dtype).max
    scale = (matrix.abs().amax(-1, keepdim=True).float() * (1 / most)).double()
    ratio = (matrix.float() / scale.float()).clamp(-most, most)
    return ratio.to(dtype).double() * scale


@pytest.mark.parametrize("way", ["e4m3", "hybrid"])
def test_a_layer_with_scales_of_rows_is_that_of_float64(way: str) -> None:
    """The weight's gradient is the unrounded one."""
    x = normal(3, 21, 32, seed=1).requires_grad_()
    weight = (0.1 * normal(48, 32, seed=2)).requires_grad_()
    gradient = 1e-4 * normal(3, 21, 48, seed=3)
    y = float8.linear_by_rows(x, weight, way)
    y.backward(gradient)
    rows, flat = x.detach().flatten(0, 1), gradient.flatten(0, 1)
    x8, w8 = quantised(rows, FORWARD), quantised(weight.detach(), FORWARD)
    g8 = quantised(flat, GRADIENTS[way])
    columns = quantised(weight.detach().T.contiguous(), FORWARD)
    near = {"rtol": 1e-4, "atol": 1e-9}
    out = y.detach().flatten(0, 1).double()
    torch.testing.assert_close(out, x8 @ w8.T, rtol=1e-5, atol=1e-6)
    assert x.grad is not None and weight.grad is not None
    torch.testing.assert_close(x.grad.flatten(0, 1).double(), g8 @ columns.T, **near)
    torch.testing.assert_close(weight.grad, flat.T @ rows)


def test_an_outlier_coarsens_its_own_row_alone() -> None:
    x, weight = normal(64, 32, seed=1), 0.1 * normal(48, 32, seed=2)
    x[5, 7] = 1e6
    exact = x.double() @ weight.double().T
    by_rows = float8.linear_by_rows(x, weight, "e4m3").double()
    by_tensor = float8.linear(x, weight, "e4m3").double()
    others = torch.arange(64) != 5

    def error(y: torch.Tensor) -> float:
        return float((y - exact)[others].norm() / exact[others].norm())

    assert error(by_rows) < 0.04 < 0.9 < error(by_tensor)


@pytest.mark.covers("KRN-17: scaled matrix multiply")
@pytest.mark.parametrize("scale", [scaled, scaled_rows])
def test_sums_over_16384_values_are_those_of_float64(scale: Any) -> None:
    """The 8-bit values are exact in float64; what is left is how they are summed."""
    length = 16_384
    a = scale(normal(8, length, seed=1), FORWARD)
    b = scale(normal(16, length, seed=2), GRADIENTS["hybrid"])
    exact = (a.values.double() * a.scale) @ (b.values.double() * b.scale).T
    found = product(a, b.mT, torch.float32, quick_sums=False).double()
    assert (found - exact).norm() / exact.norm() < 1e-5
    # In bfloat16 throughout, the same sum is lost: 8 bits do not hold 16,384 terms.
    rough = a.widened().bfloat16().cumsum(1)[:, -1].double()
    sums = a.widened().double().sum(1)
    assert (rough - sums).norm() / sums.norm() > 1e-3


@pytest.mark.covers("KRN-17: loss scaling")
@pytest.mark.parametrize("way", ["e4m3", "hybrid"])
@pytest.mark.parametrize("layer", [float8.linear, float8.linear_by_rows])
def test_every_gradient_is_scaled_so_that_the_loss_need_not_be(
    layer: Any, way: str
) -> None:
    """What a factor on the loss is for: small gradients do not become 0 in 8 bits.

    A loss that is 2^24 times smaller gives gradients that are so to the bit, though
    none of them is a number of the type by itself.
    """
    x = normal(32, 64, seed=1).requires_grad_()
    weight = (0.1 * normal(48, 64, seed=2)).requires_grad_()
    gradient = normal(32, 48, seed=3)
    found = {}
    for power in (0, -24, 24):
        y = layer(x, weight, way)
        given = gradient * 2.0**power
        found[power] = torch.autograd.grad(y, (x, weight), given)
    assert (gradient * 2.0**-24).to(GRADIENTS[way]).float().count_nonzero() == 0
    for power in (-24, 24):
        for one, other in zip(found[power], found[0], strict=True):
            assert torch.equal(one, other * 2.0**power) and one.count_nonzero() > 1000


def test_experts_multiply_their_own_rows() -> None:
    """Each expert as a layer of its own; one has no rows."""
    counts = [5, 0, 21, 6]
    offsets = torch.tensor(counts).cumsum(0).int()
    x = normal(32, 32, seed=1).requires_grad_()
    weight = (0.1 * normal(4, 48, 32, seed=2)).requires_grad_()
    gradient = normal(32, 48, seed=3)
    y = float8.grouped_linear_by_rows(x, weight, offsets)
    y.backward(gradient)
    assert x.grad is not None and weight.grad is not None
    begin = 0
    for expert, count in enumerate(counts):
        mine = slice(begin, begin + count)
        rows = x.detach()[mine].clone().requires_grad_()
        matrix = weight.detach()[expert].clone().requires_grad_()
        if count:
            alone = float8.linear_by_rows(rows, matrix, "e4m3")
            alone.backward(gradient[mine])
            torch.testing.assert_close(y.detach()[mine], alone.detach())
            torch.testing.assert_close(x.grad[mine], rows.grad)
            torch.testing.assert_close(weight.grad[expert], matrix.grad)
        else:
            assert not weight.grad[expert].any()
        begin += count


def test_what_is_not_finite_stays_so_in_its_row() -> None:
    x = normal(16, 16, seed=0)
    x[3, 4] = torch.nan
    offsets = torch.tensor([4, 16]).int()
    found = grouped_product(
        scaled_rows(x, FORWARD),
        scaled_rows(normal(2, 16, 16, seed=1), FORWARD),
        offsets,
        torch.float32,
        quick_sums=False,
    )
    assert not found[3].isfinite().any()
    assert found[torch.arange(16) != 3].isfinite().all()
    weight = normal(16, 16, seed=1).requires_grad_()
    float8.linear_by_rows(x, weight, "hybrid").sum().backward()
    assert weight.grad is not None and not weight.grad.isfinite().all()
