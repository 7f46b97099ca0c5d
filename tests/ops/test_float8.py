"""Float8 products against float32 ones of the same values, with gradients."""

from __future__ import annotations

import pytest
import torch

from lumina.ops import float8
from lumina.ops.float8.linear import FORWARD, GRADIENTS
from lumina.ops.float8.scaled import scaled


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
