"""Products of each expert's rows where the grouped kernel does not apply."""

from __future__ import annotations

import psutil
import pytest
import torch

from lumina.ops.moe.segments import rounded_up, segments_mm


def by_rows(x_nd, weight, ends):
    """One product for each row: no shape ever changes."""
    expert = [
        next(e for e, end in enumerate(ends) if n < end) for n in range(len(x_nd))
    ]
    return torch.stack([weight[e] @ row for e, row in zip(expert, x_nd, strict=True)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_and_gradients_equal_products_one_by_one(dtype):
    ends = [0, 3, 40, 41, 90]  # the first expert has no rows
    x = torch.randn(90, 24).to(dtype).requires_grad_()
    weight = torch.randn(5, 16, 24).to(dtype).requires_grad_()
    got = segments_mm(x, weight, torch.tensor(ends, dtype=torch.int32))
    outer = torch.randn(90, 16).to(dtype)
    found = torch.autograd.grad(got, (x, weight), outer)
    exact = [t.detach().double().requires_grad_() for t in (x, weight)]
    wanted = by_rows(*exact, ends)
    expected = torch.autograd.grad(wanted, exact, outer.double())
    close = {"rtol": 1e-5, "atol": 1e-4} if dtype == torch.float32 else {
        "rtol": 2e-2, "atol": 5e-2}  # fmt: skip
    torch.testing.assert_close(got.double(), wanted, **close)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, **close)


def test_few_sizes_stand_for_all():
    sizes = {rounded_up(count) for count in range(1, 5000)}
    assert len(sizes) < 40
    for count in range(1, 5000):
        assert count <= rounded_up(count) <= max(16, count * 1.25 + 15)


def test_changing_routing_does_not_make_a_process_grow():
    """In bfloat16 on a CPU, memory used to grow by about a megabyte for each shape."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 256, 128, dtype=torch.bfloat16, requires_grad=True)
    x = torch.randn(1200, 128, dtype=torch.bfloat16, requires_grad=True)

    def steps(count: int) -> int:
        for _ in range(count):
            cut = int(torch.randint(100, 1100, (), generator=generator))
            ends = torch.tensor([cut, 1200], dtype=torch.int32)
            segments_mm(x, weight, ends).sum().backward()
        return int(psutil.Process().memory_info().rss)

    before = steps(100)  # has met nearly all of the few sizes
    assert steps(200) - before < 40 * 2**20
