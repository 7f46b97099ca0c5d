"""Cross entropy with a divergence from a frozen model: the plain sum, in chunks."""

from __future__ import annotations

import pytest
import torch

from live_bytes import LiveBytes
from lumina.ops.cross_entropy import chunked
from lumina.ops.cross_entropy.distilled import (
    TENSORS,
    Pull,
    distilled_cross_entropy,
    reference,
)
from lumina.ops.cross_entropy.reference import IGNORE


def inputs(pulled=20, tokens=37, width=24, vocab=100, padded=128, weighted=True):
    """Random tensors; some labels are ignored, and padded rows of heads are large."""
    hidden, weight = torch.randn(tokens, width), torch.randn(padded, width)
    base = torch.randn(padded, width)
    for head in (weight, base):
        head[vocab:] *= 100
    labels = torch.randint(0, vocab, (tokens,))
    labels[torch.rand(tokens) < 0.3] = IGNORE
    weights = torch.rand(tokens) * 3 if weighted else None
    pull = Pull(torch.randn(pulled, width), base, strength=0.7, temperature=2.5)
    return hidden, weight, labels, weights, vocab, pull


def gradients(make, hidden, weight):
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    trained = make(hidden, weight)
    (trained * 0.37).backward()
    return trained.detach(), hidden.grad, weight.grad


@pytest.mark.covers("DAT-13: penalty toward base distribution")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("pulled", "rows"), [(0, 5), (20, 1), (20, 36), (37, 1000)])
def test_chunks_equal_the_whole_with_gradients(pulled, rows, weighted):
    hidden, weight, *rest, pull = inputs(pulled, weighted=weighted)
    got = gradients(
        lambda h, w: distilled_cross_entropy(h, w, *rest, rows * 512, pull).trained,
        hidden,
        weight,
    )
    expected = gradients(lambda h, w: reference(h, w, *rest, pull), hidden, weight)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert (got[2][100:] == 0).all()


def test_the_cross_entropy_and_the_divergence_are_told_apart():
    hidden, weight, labels, weights, vocab, pull = inputs()
    sums = distilled_cross_entropy(hidden, weight, labels, weights, vocab, 4096, pull)
    alone = chunked.cross_entropy(hidden, weight, labels, weights, vocab, 4096)
    torch.testing.assert_close(sums.loss, alone.loss)
    torch.testing.assert_close(sums.loss_t, alone.loss_t)
    torch.testing.assert_close(sums.log_z_t, alone.log_z_t)
    assert sums.correct == alone.correct
    added = pull.strength * pull.temperature**2 * sums.divergence
    torch.testing.assert_close(sums.trained, alone.loss + added)
    assert sums.divergence > 0


def test_a_model_that_says_the_same_is_pulled_nowhere():
    hidden, weight, labels, weights, vocab, _ = inputs()
    same = Pull(hidden[:20].clone(), weight.clone(), 5.0, 2.0)
    hidden.requires_grad_()
    sums = distilled_cross_entropy(hidden, weight, labels, weights, vocab, 4096, same)
    assert sums.divergence == pytest.approx(0, abs=1e-5)
    sums.trained.backward()
    got, hidden.grad = hidden.grad, None
    chunked.cross_entropy(hidden, weight, labels, weights, vocab, 4096).loss.backward()
    torch.testing.assert_close(got, hidden.grad, rtol=1e-4, atol=1e-5)


def test_no_more_than_its_tensors_are_held_at_a_time():
    """`TENSORS`, and a product that only a CPU makes; nothing of the chunk before."""
    vocab, rows = 4096, 12
    hidden, weight, labels, _, _, pull = inputs(60, 60, 8, vocab, vocab, weighted=False)
    hidden.requires_grad_()
    one = rows * vocab * 4
    with LiveBytes() as live:
        for head in (weight, pull.weight_vd):
            live.add(head)
        before = live.now
        how = TENSORS * one, pull
        distilled_cross_entropy(hidden, weight, labels, None, vocab, *how)
    assert live.peak - before < 1.05 * (TENSORS + 1) * one
