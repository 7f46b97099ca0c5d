"""The optimizer against torch's, with masters, and with steps that may not count."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lumina.optim.methods.adamw import AdamW
from lumina.optim.optimizer import Slot

SHAPES = {"matrix": (6, 4), "norm": (5,), "experts": (2, 3, 4)}


def slots_of(dtype=torch.float32, seed=0):
    """A matrix, a norm and stacked experts, with their weights."""
    g = torch.Generator().manual_seed(seed)
    slots = []
    for name, shape in SHAPES.items():
        master = torch.randn(shape, generator=g)
        parameter = nn.Parameter(master.to(dtype))
        slots.append(
            Slot(
                name=name,
                parameter=parameter,
                master=parameter.detach() if dtype == torch.float32 else master,
                decay=len(shape) >= 2,
            )
        )
    return slots


def optimizer_of(slots):
    options = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8}
    return AdamW(slots, options, device=torch.device("cpu"))


def gradients(step, dtype=torch.float32):
    g = torch.Generator().manual_seed(100 + step)
    return [torch.randn(s, generator=g).to(dtype) for s in SHAPES.values()]


def take(optimizer, grads, lr=1e-2, decay=0.1, divisor=1.0, skip=0.0):
    for slot, grad in zip(optimizer.slots, grads, strict=True):
        slot.parameter.grad = grad.to(slot.parameter.dtype)
    optimizer.step(
        lr=torch.tensor(lr),
        weight_decay=decay,
        divisor=torch.tensor(divisor),
        skip=torch.tensor(skip),
    )
    for slot in optimizer.slots:
        slot.zero_grad()


def torch_optimizer(slots):
    """torch's own, on copies; matrices decay, norms do not."""
    copies = [nn.Parameter(slot.master.clone()) for slot in slots]
    matrices = [p for p in copies if p.ndim >= 2]
    others = [p for p in copies if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others}]
    return copies, torch.optim.AdamW(
        groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0
    )


@pytest.mark.covers("TRN-06: --optimizer adamw")
def test_float32_steps_are_torchs():
    slots = slots_of()
    copies, theirs = torch_optimizer(slots)
    ours = optimizer_of(slots)
    for step in range(20):
        for group in theirs.param_groups:
            group["lr"] = 1e-2 / (step + 1)
        for copy, grad in zip(copies, gradients(step), strict=True):
            copy.grad = grad.clone()
        theirs.step()
        take(ours, gradients(step), lr=1e-2 / (step + 1))
    for slot, copy in zip(slots, copies, strict=True):
        torch.testing.assert_close(slot.parameter, copy, rtol=1e-6, atol=1e-7)
    assert ours.steps.tolist() == [20.0] * 3


def test_the_divisor_divides_the_gradients():
    plain, scaled = slots_of(), slots_of()
    one, other = optimizer_of(plain), optimizer_of(scaled)
    for step in range(5):
        take(one, gradients(step))
        take(other, [g * 1024 for g in gradients(step)], divisor=1024.0)
    for a, b in zip(plain, scaled, strict=True):
        assert torch.equal(a.parameter, b.parameter)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_masters_gather_what_half_precision_would_round_away(dtype):
    """Tiny steps add up in float32; the weights are always the masters' cast."""
    slots = slots_of(dtype)
    before = [slot.parameter.detach().clone() for slot in slots]
    copies, theirs = torch_optimizer(slots)
    ours = optimizer_of(slots)
    for group in theirs.param_groups:
        group["lr"] = 1e-4
    for _ in range(50):
        grads = gradients(0, dtype)
        for copy, grad in zip(copies, grads, strict=True):
            copy.grad = grad.float()
        theirs.step()
        take(ours, grads, lr=1e-4)
        for slot in slots:
            assert torch.equal(slot.parameter, slot.master.to(dtype))
    for slot, copy, start in zip(slots, copies, before, strict=True):
        torch.testing.assert_close(slot.master, copy.data, rtol=1e-5, atol=1e-6)
        assert not torch.equal(slot.parameter, start)


@pytest.mark.covers("TRN-25: NaN/Inf guard")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_skipped_step_changes_nothing(dtype, bad):
    slots = slots_of(dtype)
    optimizer = optimizer_of(slots)
    take(optimizer, gradients(0))
    kept = [
        [t.clone() for t in (s.parameter.detach(), s.master, *s.state.values())]
        for s in slots
    ]
    grads = gradients(1)
    grads[1][2] = bad
    take(optimizer, grads, skip=1.0)
    for slot, tensors in zip(slots, kept, strict=True):
        now = (slot.parameter, slot.master, *slot.state.values())
        assert all(torch.equal(a, b) for a, b in zip(now, tensors, strict=True))
    assert optimizer.steps.tolist() == [1.0] * 3
    # And the next good one counts as the second.
    reference = slots_of(dtype)
    other = optimizer_of(reference)
    take(other, gradients(0))
    take(other, gradients(2))
    take(optimizer, gradients(2))
    for a, b in zip(slots, reference, strict=True):
        assert torch.equal(a.master, b.master)


def test_small_chunks_give_the_same_step(monkeypatch):
    whole, pieces = slots_of(torch.bfloat16), slots_of(torch.bfloat16)
    take(optimizer_of(whole), gradients(0, torch.bfloat16))
    monkeypatch.setattr("lumina.optim.methods.adamw.CHUNK_BYTES", 8)
    take(optimizer_of(pieces), gradients(0, torch.bfloat16))
    for a, b in zip(whole, pieces, strict=True):
        assert torch.equal(a.master, b.master)


def test_a_parameter_without_a_gradient_stays():
    slots = slots_of()
    before = slots[1].parameter.detach().clone()
    grads = gradients(0)
    slots[0].parameter.grad, slots[2].parameter.grad = grads[0], grads[2]
    optimizer_of(slots).step(
        lr=torch.tensor(0.1),
        weight_decay=0.1,
        divisor=torch.tensor(1.0),
        skip=torch.tensor(0.0),
    )
    assert torch.equal(slots[1].parameter, before)
    assert not torch.equal(slots[0].parameter, slots_of()[0].parameter)
