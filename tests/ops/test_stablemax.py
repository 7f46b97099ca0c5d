"""Stablemax cross entropy against its definition."""

from __future__ import annotations

import torch

from lumina.ops.cross_entropy.stablemax import log_stablemax, stablemax_cross_entropy


def plain(x: torch.Tensor) -> torch.Tensor:
    """s(x) as the paper writes it."""
    return torch.where(x < 0, 1 / (1 - x), x + 1)


def test_it_is_the_definition() -> None:
    x = torch.randn(50, 11, dtype=torch.float64) * 3
    expected = (plain(x) / plain(x).sum(-1, keepdim=True)).log()
    torch.testing.assert_close(log_stablemax(x), expected)


def test_gradients_are_finite_where_a_branch_of_the_definition_is_not() -> None:
    x = torch.tensor([[0.0, 1.0, -1.0, 1e4, -1e4, 1.0 + 1e-9]], dtype=torch.float64)
    x.requires_grad_()
    log_stablemax(x).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_the_gradient_at_zero_is_that_of_the_upper_branch() -> None:
    x = torch.tensor([0.0, 2.0], dtype=torch.float64, requires_grad=True)
    log_stablemax(x)[0].backward()
    # log s(0) - log(s(0) + s(2)): 1 - 1/4 and -1/4.
    torch.testing.assert_close(x.grad, torch.tensor([0.75, -0.25]).double())


def test_ignored_positions_cost_nothing_and_get_no_gradient() -> None:
    logits = torch.randn(2, 3, 5, requires_grad=True)
    labels = torch.tensor([[1, -100, 4], [-100, -100, 0]])
    loss = stablemax_cross_entropy(logits, labels, -100)
    assert loss.dtype == torch.float64
    assert (loss == 0).tolist() == (labels == -100).tolist()
    loss.sum().backward()
    assert logits.grad is not None
    assert (logits.grad[labels == -100] == 0).all()
    assert (logits.grad[labels != -100] != 0).all()
