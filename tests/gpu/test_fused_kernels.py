"""Triton kernels against their references, on fresh random inputs. Needs a GPU."""

from __future__ import annotations

import pytest
import torch

from lumina.ops.adamw import reference as adamw_reference
from lumina.ops.cross_entropy.chunked import cross_entropy
from lumina.ops.cross_entropy.reference import cross_entropy as plain_cross_entropy

pytestmark = pytest.mark.gpu


def scalars(**values: float) -> dict[str, torch.Tensor]:
    return {k: torch.tensor(v, device="cuda") for k, v in values.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1, 4096, 100_003])
@pytest.mark.parametrize("skip", [0.0, 1.0])
def test_adamw_equals_the_reference(dtype, size, skip):
    from lumina.ops.adamw import fused

    def state():
        torch.manual_seed(size)
        master = torch.randn(size, device="cuda")
        apart = dtype != torch.float32
        return [
            master,
            (torch.randn(size, device="cuda") * 3).to(dtype),
            torch.randn(size, device="cuda") * 0.1,
            torch.rand(size, device="cuda") * 0.1,
            master.to(dtype) if apart else master,
        ]

    ours, theirs = state(), state()
    given = scalars(
        lr=1e-2, divisor=2.5, skip=skip, correction1=0.19, correction2=0.0975
    )
    numbers = dict(beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1)
    fused.adamw_(*ours, **given, **numbers)
    adamw_reference.adamw_(*theirs, **given, **numbers)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-6, atol=1e-6)
    if skip:
        assert all(torch.equal(a, b) for a, b in zip(ours, state(), strict=True))
    else:
        assert not torch.equal(ours[0], state()[0])


@pytest.mark.parametrize("vocab", [(1000, 1024), (50_257, 50_304), (64, 64)])
@pytest.mark.parametrize("chunk_bytes", [2**16, 2**24, 2**30])
@pytest.mark.covers(
    "MEM-18",
    "TOK-06: embedding and logits memory handled (chunked or fused cross-entropy)",
)
def test_chunked_loss_equals_the_reference_on_the_gpu(vocab, chunk_bytes):
    used, padded = vocab
    torch.manual_seed(padded)
    hidden = torch.randn(137, 64, device="cuda", requires_grad=True)
    weight = (torch.randn(padded, 64, device="cuda") * 0.3).requires_grad_()
    labels = torch.randint(0, used, (137,), device="cuda")
    labels[::7] = -100
    weights = torch.rand(137, device="cuda")
    sums = cross_entropy(hidden, weight, labels, weights, used, chunk_bytes)
    (sums.loss * 0.37).backward()
    found = [sums.loss.detach(), hidden.grad.clone(), weight.grad.clone()]
    hidden.grad = weight.grad = None
    loss = plain_cross_entropy(hidden, weight, labels, weights, used)
    (loss * 0.37).backward()
    wanted = [loss.detach(), hidden.grad, weight.grad]
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_bfloat16_loss_is_near_float32_and_its_gradient_has_the_right_size():
    torch.manual_seed(0)
    hidden32 = torch.randn(512, 256, device="cuda")
    weight32 = torch.randn(8192, 256, device="cuda") * 0.1
    labels = torch.randint(0, 8192, (512,), device="cuda")
    grads = {}
    for dtype in (torch.float32, torch.bfloat16):
        hidden = hidden32.to(dtype, copy=True).requires_grad_()
        weight = weight32.to(dtype, copy=True).requires_grad_()
        loss = cross_entropy(hidden, weight, labels, None, 8192, 2**22).loss
        loss.backward()
        grads[dtype] = (loss.item(), hidden.grad.float(), weight.grad.float())
    exact, half = grads[torch.float32], grads[torch.bfloat16]
    assert abs(half[0] / exact[0] - 1) < 2e-3
    for g, ref in zip(half[1:], exact[1:], strict=True):
        # A gradient scaled by 1.01 passes a per-tensor tolerance; not this slope.
        slope = (g * ref).sum() / ref.square().sum()
        assert abs(slope.item() - 1) < 2e-3
