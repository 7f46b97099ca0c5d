"""A router's float32 logits from bfloat16 parts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lumina.ops.router.dispatch import router_linear
from lumina.ops.router.reference import router_linear as reference
from lumina.ops.router.split import parts, split_linear

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def exact(x: Tensor, weight: Tensor, pull: Tensor) -> list[Tensor]:
    """Logits, gradient of x, gradient of the weight, in float64."""
    return [x.double() @ weight.double().T, pull @ weight.double(), pull.T @ x.double()]


def case(experts: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(96, 64, device=device).to(torch.bfloat16)
    weight = torch.randn(experts, 64, device=device) * 0.02
    return x, weight, torch.randn(96, experts, device=device, dtype=torch.float64)


def worst(found: Tensor, wanted: Tensor) -> float:
    return ((found.double() - wanted).abs().max() / wanted.abs().max()).item()


def test_three_parts_are_the_number() -> None:
    value = torch.randn(1000) * 10.0 ** torch.randint(-6, 6, (1000,))
    assert torch.equal(sum(p.double() for p in parts(value, 3)), value.double())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("experts", [1, 3, 8, 64])
def test_parts_are_as_exact_as_float32(experts: int, device: str) -> None:
    x, weight, pull = case(experts, device)
    x.requires_grad_()
    weight.requires_grad_()
    wanted = exact(x.detach(), weight.detach(), pull)
    logits = split_linear(x, weight)
    assert logits.dtype == torch.float32
    logits.backward(pull.float())
    assert x.grad is not None and weight.grad is not None
    assert worst(logits.detach(), wanted[0]) < 1e-6
    assert worst(x.grad, wanted[1]) < 2**-8  # what bfloat16 itself can hold
    assert worst(weight.grad, wanted[2]) < 1e-6
    # The products really are beyond bfloat16's own.
    rounded = x.detach().float() @ weight.detach().to(torch.bfloat16).float().T
    assert worst(rounded, wanted[0]) > 1e-4


@pytest.mark.parametrize("device", DEVICES)
def test_dispatch_is_the_reference(device: str) -> None:
    x, weight, _ = case(8, device)
    found = router_linear(x.view(4, 24, 64), weight)
    assert found.shape == (4, 24, 8)
    torch.testing.assert_close(
        found, reference(x.view(4, 24, 64), weight), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("device", DEVICES)
def test_compiled_gradients_are_the_plain_ones(device: str) -> None:
    x, weight, pull = case(8, device)
    found = []
    for function in (split_linear, torch.compile(split_linear, backend="aot_eager")):
        a, b = x.clone().requires_grad_(), weight.clone().requires_grad_()
        function(a, b).backward(pull.float())
        assert a.grad is not None and b.grad is not None
        found.append((a.grad, b.grad))
    assert all(torch.equal(p, q) for p, q in zip(*found, strict=True))
