"""GPTQ in blocks against its equations, and against rounding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lumina.errors import LuminaError
from lumina.ops.gptq import blocked, reference
from lumina.ops.gptq.coded import Grid, nearest, output_error, prepared

WIDTH = 160


def inputs(seed: int, tokens: int = 400, width: int = WIDTH) -> Tensor:
    """Correlated inputs, some much stronger than others, two of them silent."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64)
    power = torch.rand(width, generator=generator, dtype=torch.float64) * 3
    x = torch.randn(tokens, width, generator=generator, dtype=torch.float64)
    x = (x @ (torch.eye(width) + 0.2 * mix).double()) * power
    x[:, [3, 77]] = 0
    return x


def matrix(seed: int, rows: int = 24, width: int = WIDTH) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 100)
    return torch.randn(rows, width, generator=generator, dtype=torch.float64)


@pytest.mark.covers("PRC-13: group-wise", "PRC-10: gptq 4, 3, 2")
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize(
    ("group", "symmetric"),
    [(32, False), (48, False), (128, False), (WIDTH, False), (48, True)],
)
def test_blocks_are_the_equations(bits: int, group: int, symmetric: bool) -> None:
    grid = Grid(bits, group, torch.float32, symmetric)
    x, weight = inputs(bits), matrix(group)
    slow = reference.gptq(weight, x.T @ x, grid)
    fast = blocked.gptq(weight, x.T @ x, grid)
    assert slow.scale.shape == (24, -(-WIDTH // group))
    assert torch.equal(fast.codes, slow.codes)
    assert torch.equal(fast.zero, slow.zero)
    torch.testing.assert_close(fast.scale, slow.scale)
    torch.testing.assert_close(fast.wide(torch.float64), slow.wide(torch.float64))


def test_without_correlation_it_is_rounding() -> None:
    grid, weight = Grid(3, 32), matrix(0)
    found = blocked.gptq(weight, torch.eye(WIDTH).double(), grid)
    plain = nearest(weight, grid)
    assert torch.equal(found.codes, plain.codes)
    assert torch.equal(found.scale, plain.scale.half().double())


@pytest.mark.covers("PRC-13: post-training")
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_outputs_are_nearer_than_those_of_rounding(bits: int) -> None:
    """Measured by multiplying, on the inputs and on others of the same kind."""
    grid = Grid(bits, 64)
    x, weight = inputs(1), matrix(1)
    found = blocked.gptq(weight, x.T @ x, grid).wide(torch.float64)
    plain = nearest(weight, grid).wide(torch.float64)
    exact = x @ weight.T
    errors = [(x @ one.T - exact).norm() / exact.norm() for one in (found, plain)]
    assert errors[0] < 0.9 * errors[1], errors
    for one, error in zip((found, plain), errors, strict=True):
        told = output_error(weight, one, x.T @ x)
        assert float(told) == pytest.approx(float(error), rel=1e-6)


def test_experts_are_taken_side_by_side() -> None:
    """Among them one that no token came to, which is rounded."""
    grid = Grid(4, 32)
    xs = [inputs(seed) for seed in range(2)]
    hessians = torch.stack([*(x.T @ x for x in xs), torch.zeros(WIDTH, WIDTH).double()])
    weights = torch.stack([matrix(seed) for seed in range(3)])
    for act_order in (False, True):
        together = blocked.gptq(weights, hessians, grid, act_order=act_order)
        for e in range(3):
            alone = blocked.gptq(weights[e], hessians[e], grid, act_order=act_order)
            one = together.expert(e)
            assert torch.equal(one.codes, alone.codes)
            assert torch.equal(one.group_of, alone.group_of)
            torch.testing.assert_close(one.wide(), alone.wide())
    assert torch.equal(together.expert(2).codes, nearest(weights[2], grid).codes)


def test_the_order_of_power_begins_with_the_strongest_input() -> None:
    grid = Grid(3, 40)
    x, weight = inputs(5), matrix(5)
    hessian = x.T @ x
    found = blocked.gptq(weight, hessian, grid, act_order=True)
    order = hessian.diagonal().argsort(descending=True, stable=True)
    expected = reference.gptq(weight[:, order], hessian[order][:, order], grid)
    assert torch.equal(found.codes[:, order], expected.codes)
    assert torch.equal(found.group_of[order], torch.arange(WIDTH) // 40)
    wide = found.wide(torch.float64)
    torch.testing.assert_close(wide[:, order], expected.wide(torch.float64))


def test_a_zero_point_is_one_at_least_and_zero_is_exact() -> None:
    grid = Grid(4, 32)
    weight = matrix(2).abs()
    weight[:, 5] = 0
    found = nearest(weight, grid)
    assert int(found.zero.min()) >= 1
    assert not found.wide()[:, 5].any()
    assert not nearest(torch.zeros(3, 40).double(), grid).wide().any()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_symmetric_range_is_written_out(bits: int) -> None:
    """One group of numbers, code by code; and one whose numbers are all above 0."""
    weight = matrix(6, rows=3, width=32)
    weight[1] = weight[1].abs()
    weight[2] = 0
    found = nearest(weight, Grid(bits, 32, torch.float64, symmetric=True))
    middle = 2 ** (bits - 1)
    assert found.zero.unique().tolist() == [middle]
    for row in range(2):
        numbers = weight[row].tolist()
        step = 2 * max(abs(x) for x in numbers) / (2**bits - 1)
        codes = [min(max(round(x / step) + middle, 0), 2**bits - 1) for x in numbers]
        assert found.codes[row].tolist() == codes
        wide = found.wide(torch.float64)[row]
        assert wide.tolist() == pytest.approx([step * (c - middle) for c in codes])
        assert float((wide - weight[row]).abs().max()) <= step / 2 * (1 + 1e-6)
    assert not found.wide()[2].any()


def test_damping_grows_until_there_is_a_factor() -> None:
    """One token alone gives a Hessian of rank one, in float32 and with no damping."""
    x = torch.randn(1, 64)
    factor = blocked.inverse_factor(x.T @ x, 1e-6)
    assert bool(torch.isfinite(factor).all())
    with pytest.raises(LuminaError) as caught:
        blocked.inverse_factor(torch.full((8, 8), torch.nan), 0.01)
    assert caught.value.code == "E303"


def test_prepared_adds_its_share_of_the_mean() -> None:
    found = prepared(torch.diag(torch.tensor([2.0, 0.0, 4.0])), 0.5)
    mean = (2 + 1 + 4) / 3
    expected = torch.tensor([2.0, 1.0, 4.0]) + 0.5 * mean
    torch.testing.assert_close(found.diagonal(), expected)
