"""Optimizers against torch's, and against the formulas of their papers, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lumina.optim.orthogonal import POLYNOMIALS, orthogonalised
from optimizer_steps import (
    MATRICES,
    gradients,
    logical,
    optimizer,
    slots_of,
    take,
)

LR, DECAY, STEPS = 1e-2, 0.1, 6


def torchs(
    kind: Any, slots: list[Any], **options: Any
) -> tuple[list[list[nn.Parameter]], Any]:
    """torch's optimizer on copies of the matrices that the slots consist of.

    It has no decay of its own: that is one of torch's options, which differ.
    """
    copies = [[nn.Parameter(m.clone()) for m in logical(s, s.master)] for s in slots]
    return copies, kind([p for group in copies for p in group], lr=LR, **options)


def compare(
    ours: Any,
    copies: list[list[nn.Parameter]],
    theirs: Any,
    decay: float = DECAY,
    **near: float,
) -> None:
    """Some steps of both; every matrix stays the same."""
    for step in range(STEPS):
        grads = gradients(ours.slots, step)
        for slot, group, grad in zip(ours.slots, copies, grads, strict=True):
            for copy, part in zip(group, logical(slot, grad), strict=True):
                copy.grad = part.clone()
                if slot.decay:
                    copy.data.mul_(1 - LR * decay)
        theirs.step()
        take(ours, grads, lr=LR, decay=decay)
    for slot, group in zip(ours.slots, copies, strict=True):
        for copy, part in zip(group, logical(slot, slot.master), strict=True):
            torch.testing.assert_close(part, copy.data, **near)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_torchs(momentum: float, nesterov: bool) -> None:
    slots = slots_of()
    more = {"momentum": momentum, "nesterov": nesterov and momentum > 0}
    copies, theirs = torchs(torch.optim.SGD, slots, **more)
    ours = optimizer("sgd", slots, **more)
    compare(ours, copies, theirs, rtol=1e-6, atol=1e-6)


def test_lion_is_the_papers() -> None:
    """Algorithm 2 of arXiv:2302.06675."""
    slots = slots_of()
    weights = [slot.master.double() for slot in slots]
    means = [torch.zeros_like(w) for w in weights]
    ours = optimizer("lion", slots)
    for step in range(STEPS):
        grads = gradients(slots, step)
        for n, (slot, grad) in enumerate(zip(slots, grads, strict=True)):
            update = torch.sign(0.9 * means[n] + 0.1 * grad.double())
            update = update + (DECAY * weights[n] if slot.decay else 0.0)
            weights[n] = weights[n] - LR * update
            means[n] = 0.99 * means[n] + 0.01 * grad.double()
        take(ours, grads, lr=LR, decay=DECAY)
    for slot, weight in zip(slots, weights, strict=True):
        torch.testing.assert_close(slot.master.double(), weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize("clip", [1.0, 2.0])
def test_adafactor_scaled_by_weights_is_torchs(clip: float) -> None:
    """But for decay, which torch applies after it has looked at the weights' size."""
    slots = slots_of()
    copies, theirs = torchs(
        torch.optim.Adafactor, slots, d=clip, weight_decay=0.0, eps=(1e-15, 1e-3)
    )
    ours = optimizer("adafactor", slots, scale_by_weights=True, clip=clip)
    compare(ours, copies, theirs, decay=0.0, rtol=1e-5, atol=1e-6)


def test_adafactor_is_the_papers() -> None:
    """Algorithms 4 and 6 of arXiv:1804.04235, with the run's rate as it is."""
    slots = slots_of()
    ours = optimizer("adafactor", slots)
    weights = [[m.double() for m in logical(s, s.master)] for s in slots]
    held: dict[tuple[int, int], Any] = {}
    for step in range(STEPS):
        grads = gradients(slots, step)
        beta = 1 - (step + 1) ** -0.8
        for n, (slot, grad) in enumerate(zip(slots, grads, strict=True)):
            for k, g in enumerate(part.double() for part in logical(slot, grad)):
                square = g**2 + 1e-30
                if g.ndim == 2:
                    new = (square.sum(1), square.sum(0))
                    old = held.get((n, k), (0 * new[0], 0 * new[1]))
                    row, column = (
                        beta * a + (1 - beta) * b for a, b in zip(old, new, strict=True)
                    )
                    held[n, k] = row, column
                    mean = torch.outer(row, column) / row.sum()
                else:
                    mean = beta * held.get((n, k), 0 * square) + (1 - beta) * square
                    held[n, k] = mean
                update = g / mean.sqrt()
                update = update / max(1.0, update.square().mean().sqrt().item())
                decayed = 1 - LR * DECAY * slot.decay
                weights[n][k] = decayed * weights[n][k] - LR * update
        take(ours, grads, lr=LR, decay=DECAY)
    for slot, matrices in zip(slots, weights, strict=True):
        for part, weight in zip(logical(slot, slot.master), matrices, strict=True):
            torch.testing.assert_close(part.double(), weight, rtol=1e-5, atol=1e-6)


def newton_schulz(matrix: Tensor, steps: int = 5) -> Tensor:
    """As https://kellerjordan.github.io/posts/muon/ writes it, in float64."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.double()
    flipped = x.shape[0] > x.shape[1]
    x = (x.T if flipped else x) / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if flipped else x


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("scale", ["adamw", "shape"])
def test_muon_is_the_papers(nesterov: bool, scale: str) -> None:
    """Each piece of a fused matrix and each expert of a stack by itself."""
    slots = slots_of(MATRICES)
    ours = optimizer("muon", slots, nesterov=nesterov, scale=scale)
    weights = [[m.double() for m in logical(s, s.master)] for s in slots]
    sums = [[torch.zeros_like(m) for m in group] for group in weights]
    for step in range(STEPS):
        grads = gradients(slots, step)
        for n, (slot, grad) in enumerate(zip(slots, grads, strict=True)):
            for k, g in enumerate(part.double() for part in logical(slot, grad)):
                sums[n][k] = 0.95 * sums[n][k] + g
                direction = g + 0.95 * sums[n][k] if nesterov else sums[n][k]
                rows, columns = g.shape
                size = (
                    0.2 * max(rows, columns) ** 0.5
                    if scale == "adamw"
                    else max(1.0, rows / columns) ** 0.5
                )
                update = size * newton_schulz(direction)
                weights[n][k] = (1 - LR * DECAY) * weights[n][k] - LR * update
        take(ours, grads, lr=LR, decay=DECAY)
    for slot, matrices in zip(slots, weights, strict=True):
        for part, weight in zip(logical(slot, slot.master), matrices, strict=True):
            torch.testing.assert_close(part.double(), weight, rtol=1e-4, atol=1e-5)


def test_muon_is_torchs_as_far_as_bfloat16_goes() -> None:
    slots = slots_of(MATRICES)
    copies, theirs = torchs(
        torch.optim.Muon, slots, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
    )
    compare(optimizer("muon", slots), copies, theirs, rtol=0, atol=1e-3)


def test_muon_in_small_batches_takes_the_same_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, parts = slots_of(MATRICES), slots_of(MATRICES)
    take(optimizer("muon", whole), gradients(whole, 0))
    monkeypatch.setattr("lumina.optim.methods.muon.BATCH_BYTES", 8)
    monkeypatch.setattr("lumina.optim.orthogonal.PART_BYTES", 8)
    take(optimizer("muon", parts), gradients(parts, 0))
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a.master, b.master, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "iterations", "least", "most"),
    [("quintic", 5, 0.6, 1.25), ("polar_express", 8, 0.999, 1.001)],
)
def test_singular_values_end_near_one(
    name: str, iterations: int, least: float, most: float
) -> None:
    """And the singular vectors stay those of the matrix."""
    matrix = torch.randn(2, 40, 24, generator=torch.Generator().manual_seed(0))
    found = orthogonalised(1e3 * matrix, name, iterations)
    values = torch.linalg.svdvals(found)
    assert values.min() > least and values.max() < most
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.mT @ found @ vh.mT
    assert (inner - torch.diag_embed(inner.diagonal(dim1=1, dim2=2))).abs().max() < 1e-4


def test_an_expert_without_a_gradient_does_not_move() -> None:
    for polynomial in POLYNOMIALS:
        found = orthogonalised(torch.zeros(2, 3, 4), polynomial, 5)
        assert torch.equal(found, torch.zeros(2, 3, 4))
    assert orthogonalised(torch.zeros(0, 3, 4), "quintic", 5).shape == (0, 3, 4)


RATES = (0.0, 0.01, 0.03, 0.02, 0.02, 0.005)


def test_schedule_free_is_the_papers() -> None:
    """Algorithm 1 of arXiv:2405.15682, in float64, with a rate that is 0 at first."""
    slots = slots_of()
    ours = optimizer("schedule_free", slots)
    xs = [slot.master.double() for slot in slots]
    ys, zs, squares = list(xs), list(xs), [0 * x for x in xs]
    total = largest = 0.0
    for step, rate in enumerate(RATES):
        grads = gradients(slots, step)
        largest = max(largest, rate)
        total += largest**2
        c = largest**2 / total if total else 0.0
        for n, (slot, grad) in enumerate(zip(slots, grads, strict=True)):
            squares[n] = 0.95 * squares[n] + 0.05 * grad.double() ** 2
            root = (squares[n] / (1 - 0.95 ** (step + 1))).sqrt() + 1e-8
            decayed = DECAY * ys[n] if slot.decay else 0.0
            zs[n] = zs[n] - rate * (grad.double() / root + decayed)
            xs[n] = (1 - c) * xs[n] + c * zs[n]
            ys[n] = 0.1 * zs[n] + 0.9 * xs[n]
        take(ours, grads, lr=rate, decay=DECAY)
    near = {"rtol": 1e-5, "atol": 2e-6}
    for n, slot in enumerate(slots):
        torch.testing.assert_close(slot.master.double(), ys[n], **near)
        torch.testing.assert_close(slot.state["z"].double(), zs[n], **near)
        torch.testing.assert_close(ours.evaluated(slot).double(), xs[n], **near)


def test_schedule_free_is_the_authors() -> None:
    """Where their package is installed."""
    theirs = pytest.importorskip("schedulefree", reason="schedulefree is not installed")
    slots = slots_of(MATRICES)
    ours = optimizer("schedule_free", slots)
    copies = [nn.Parameter(slot.master.clone()) for slot in slots]
    other = theirs.AdamWScheduleFree(
        copies, lr=LR, betas=(0.9, 0.95), eps=1e-8, weight_decay=DECAY
    )
    other.train()
    for step in range(STEPS):
        grads = gradients(slots, step)
        for copy, grad in zip(copies, grads, strict=True):
            copy.grad = grad.clone()
        other.step()
        take(ours, grads, lr=LR, decay=DECAY)
    near = {"rtol": 1e-5, "atol": 2e-6}
    for slot, copy in zip(slots, copies, strict=True):
        torch.testing.assert_close(slot.master, copy.data, **near)
    other.eval()
    for slot, copy in zip(slots, copies, strict=True):
        torch.testing.assert_close(ours.evaluated(slot), copy.data, **near)
