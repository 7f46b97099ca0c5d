"""Attention whose backward pass takes a group of heads at a time.

Fused attention holds the gradients of all queries, keys and values at once, copies of
them as its kernel wants them, and sums of the kernel's own: together several times what
a block's input takes, and in long rows the most that a step holds. Heads do not look at
each other, so here only one group of them goes back at a time. Its gradients are
written over its queries, keys and values, which nothing needs by then. Beside the one
tensor that holds those of all heads, there is only what one group takes.

The price is that every group attends once more in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""[B, S, h, head_dim] queries, keys and values of some heads to [B, S, h, head_dim]."""


def in_groups(
    qkv_bshd: Tensor, heads: tuple[int, int, int], groups: int, attend: Attend
) -> Tensor:
    """Attention of all heads, whose backward pass overwrites `qkv_bshd`.

    Args:
        qkv_bshd: [B, S, sum of `heads`, head_dim], rotated, queries first, then keys
            and values. Nothing else may need it in the backward pass.
        heads: of queries, keys and values.
        groups: how many; divides the heads of keys.
        attend: attention of some heads.

    Returns:
        [B, S, heads of queries, head_dim].

    Raises:
        ValueError: the groups would not be of equally many heads.
    """
    if heads[1] % groups:
        raise ValueError(f"{groups} groups do not divide {heads[1]} heads of keys")
    out: Tensor = _InGroups.apply(qkv_bshd, heads, groups, attend)
    return out


class _InGroups(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv_bshd: Tensor,
        heads: tuple[int, int, int],
        groups: int,
        attend: Attend,
    ) -> Tensor:
        ctx.save_for_backward(qkv_bshd)
        ctx.settings = heads, groups, attend
        rows, length, _, width = qkv_bshd.shape
        out = qkv_bshd.new_empty(rows, length, heads[0], width)
        parts = out.chunk(groups, dim=2)
        for part, group in zip(parts, _groups(qkv_bshd, heads, groups), strict=True):
            part.copy_(attend(*group))
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> Any:  # type: ignore[override]
        if ctx.settings is None:
            raise RuntimeError(
                "attention in groups of heads goes back once: its gradients have taken "
                "the place of its queries, keys and values"
            )
        (heads, groups, attend), ctx.settings = ctx.settings, None
        qkv_bshd = ctx.saved_tensors[0].detach()
        grads = grad_out.chunk(groups, dim=2)
        for grad, group in zip(grads, _groups(qkv_bshd, heads, groups), strict=True):
            leaves = [one.detach().requires_grad_() for one in group]
            with torch.enable_grad():
                seen = attend(*leaves)
            found = torch.autograd.grad(seen, leaves, grad)
            for one, its_grad in zip(group, found, strict=True):
                one.copy_(its_grad)
        return qkv_bshd, None, None, None


def _groups(
    qkv_bshd: Tensor, heads: tuple[int, int, int], groups: int
) -> list[tuple[Tensor, ...]]:
    """Views of the queries, keys and values of each group."""
    parts = (one.chunk(groups, dim=2) for one in qkv_bshd.split(heads, dim=2))
    return list(zip(*parts, strict=True))
