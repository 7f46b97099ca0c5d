"""Moving tokens to experts and back by gathers alone.

Autograd's own derivative of a gather is an atomic scatter: slow, and in an order that
differs from run to run. Both directions of a dispatch are known, so each backward here
is a gather with the opposite index: deterministic, and nothing synchronises.
An index equal to the number of rows stands for "nothing" and reads as zeros.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _rows(x: Tensor, index: Tensor, holes: bool) -> Tensor:
    """`x[index]`, with zeros where `index` points one past the end (if `holes`)."""
    if not holes:
        return x[index]
    last = x.shape[0] - 1
    return torch.where((index <= last).unsqueeze(-1), x[index.clamp(max=last)], 0)


class _Dispatch(torch.autograd.Function):
    """See `dispatch`."""

    @staticmethod
    def forward(
        ctx: Any, x_td: Tensor, token_n: Tensor, place_tk: Tensor, holes: bool
    ) -> Tensor:
        ctx.save_for_backward(place_tk)
        ctx.holes = holes
        return _rows(x_td, token_n, holes)

    @staticmethod
    def backward(ctx: Any, grad_nd: Tensor) -> tuple[Tensor | None, ...]:
        (place_tk,) = ctx.saved_tensors
        total = _rows(grad_nd, place_tk[:, 0], ctx.holes).float()
        for choice in range(1, place_tk.shape[1]):
            total = total + _rows(grad_nd, place_tk[:, choice], ctx.holes)
        return total.to(grad_nd.dtype), None, None, None


class _Combine(torch.autograd.Function):
    """See `combine`."""

    @staticmethod
    def forward(
        ctx: Any,
        y_nd: Tensor,
        scores_tk: Tensor,
        place_tk: Tensor,
        assignment_n: Tensor,
        holes: bool,
    ) -> Tensor:
        ctx.save_for_backward(y_nd, scores_tk, place_tk, assignment_n)
        ctx.holes = holes
        total = _rows(y_nd, place_tk[:, 0], holes).float() * scores_tk[:, :1]
        for choice in range(1, place_tk.shape[1]):
            row = _rows(y_nd, place_tk[:, choice], holes).float()
            total = total + row * scores_tk[:, choice : choice + 1]
        # Not `.to` where it would change nothing: compiled by torch 2.11, a Function
        # that returns such an alias has gradients of zero (seen 2026-11-21).
        return total if total.dtype == y_nd.dtype else total.to(y_nd.dtype)

    @staticmethod
    def backward(ctx: Any, grad_td: Tensor) -> tuple[Tensor | None, ...]:
        y_nd, scores_tk, place_tk, assignment_n = ctx.saved_tensors
        top_k = place_tk.shape[1]
        grad32 = grad_td.float()
        grad_scores = torch.stack(
            [
                (_rows(y_nd, place_tk[:, choice], ctx.holes).float() * grad32).sum(-1)
                for choice in range(top_k)
            ],
            dim=1,
        )
        # An assignment without a place has no row: its score reads as zero.
        score_n = _rows(scores_tk.reshape(-1, 1), assignment_n, ctx.holes)
        token_n = assignment_n // top_k
        # In place: two copies of all rows in float32 would be a step's peak.
        grad_nd = _rows(grad_td, token_n, ctx.holes).float().mul_(score_n)
        return grad_nd.to(y_nd.dtype), grad_scores, None, None, None


def dispatch(
    x_td: Tensor, token_n: Tensor, place_tk: Tensor, *, holes: bool = False
) -> Tensor:
    """Copy tokens to their places.

    Args:
        x_td: [T, D].
        token_n: [N] the token at a place; T for an empty place.
        place_tk: [T, k] the inverse: a token's places; N for a dropped assignment.
        holes: whether empty places or dropped assignments occur at all.

    Returns:
        [N, D].
    """
    result: Tensor = _Dispatch.apply(x_td, token_n, place_tk, holes)
    return result


def combine(
    y_nd: Tensor,
    scores_tk: Tensor,
    place_tk: Tensor,
    assignment_n: Tensor,
    *,
    holes: bool = False,
) -> Tensor:
    """Add up what each token's places produced, weighted in float32, in fixed order.

    Args:
        y_nd: [N, D].
        scores_tk: [T, k] float32.
        place_tk: [T, k] where each assignment sits; N when it was dropped.
        assignment_n: [N] the inverse, t * k + choice; T * k for an empty place.
        holes: as in `dispatch`.

    Returns:
        [T, D] in the type of `y_nd`.
    """
    result: Tensor = _Combine.apply(y_nd, scores_tk, place_tk, assignment_n, holes)
    return result
