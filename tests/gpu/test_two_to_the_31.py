"""Kernels over 2^31 numbers and a few more or less, on a GPU: the last rows are theirs.

Rows are 4,096 wide, so that a tensor of 524,288 of them has 2^31 numbers. Whatever
counts places in 32 bits reads or writes others there. About 20 GiB of memory.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lumina.assemble.kept.coded import coded, decoded
from lumina.ops.cross_entropy.chunked import cross_entropy
from lumina.ops.norms_together import operators
from lumina.ops.tiled import tiled

pytestmark = [pytest.mark.gpu, pytest.mark.whole_device]
WIDTH = 4096
LENGTHS = (524_287, 524_288, 524_289)


def rows(length: int) -> Tensor:
    """[length, WIDTH] in bfloat16, drawn on the device."""
    there = torch.Generator("cuda").manual_seed(length)
    x = torch.empty(length, WIDTH, device="cuda", dtype=torch.bfloat16)
    return x.normal_(generator=there)


def ends(y: Tensor, count: int = 3) -> Tensor:
    """The first and the last rows, apart from the others' memory."""
    return torch.cat([y[:count], y[-count:]]).clone()


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kind", ["swiglu", "rms_norm"])
def test_rows_at_both_ends_are_those_computed_alone(
    kind: str, length: int, fused: bool
) -> None:
    weight = torch.linspace(0.5, 1.5, WIDTH, device="cuda")

    def computed(x: Tensor) -> Tensor:
        if kind == "swiglu":
            return operators.swiglu(x, fused)
        return operators.rms_norm(x, weight, 1e-5, fused)

    x = rows(length).requires_grad_()
    y = computed(x)
    (found,) = torch.autograd.grad(y, x, y.detach())
    few = ends(x.detach()).requires_grad_()
    expected = computed(few)
    (gradient,) = torch.autograd.grad(expected, few, expected.detach())
    torch.testing.assert_close(ends(y.detach()), expected, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(ends(found), gradient, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("length", LENGTHS)
def test_the_loss_of_the_last_rows_is_theirs(length: int) -> None:
    hidden = rows(length)
    there = torch.Generator("cuda").manual_seed(1)
    weight = torch.randn(64, WIDTH, device="cuda", generator=there) / 64
    weight = weight.bfloat16().requires_grad_()
    labels = torch.full((length,), -100, device="cuda")
    labels[-3:] = torch.tensor([1, 60, 2], device="cuda")
    found = cross_entropy(hidden, weight, labels, None, 64, 2**26)
    found.loss.backward()
    again = weight.detach().clone().requires_grad_()
    logits = hidden[-3:].clone() @ again.t()
    loss = torch.nn.functional.cross_entropy(
        logits.float(), labels[-3:], reduction="sum"
    )
    loss.backward()
    assert found.loss.item() == pytest.approx(loss.item(), rel=1e-2)
    assert weight.grad is not None and again.grad is not None
    torch.testing.assert_close(weight.grad, again.grad, rtol=5e-2, atol=5e-2)


@pytest.mark.parametrize("length", LENGTHS)
def test_activations_in_four_bits_come_back(length: int) -> None:
    x = rows(length)
    back = ends(decoded(coded(x, 4)))
    assert torch.equal(back, decoded(coded(ends(x), 4)))


@pytest.mark.parametrize("length", LENGTHS)
def test_tiles_reach_the_last_row(length: int) -> None:
    x = rows(length).requires_grad_()
    weight = torch.ones(WIDTH, device="cuda", dtype=torch.bfloat16)
    y = tiled(lambda x, w: x * w, [x], [weight], 32_768)
    (found,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert torch.equal(ends(y.detach()), ends(x.detach()))
    assert torch.equal(found[-3:], torch.ones_like(found[-3:]))
