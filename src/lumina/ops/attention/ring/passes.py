"""Forward and backward of ring attention, as one of its ranks computes them.

Keys and values go round, and each rank attends to those that are with it; the results
are merged by the logarithms of their sums (Liu et al., 2023, arXiv:2310.01889). On the
way back keys and values go round again, and the gradients of each rank's keys go with
them, in float32, until they are home. While they travel, the rank computes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lumina.ops.attention.block_kernels.table import BlockKernel
from lumina.ops.attention.merged import (
    gradients_of_piece,
    merge,
    of_piece,
    width_of,
)
from lumina.ops.attention.ring.link import Receive, Send, Steps
from lumina.ops.attention.ring.seen import Seen
from lumina.ops.attention.ring.zigzag import Zigzag


def forward(
    kernel: BlockKernel,
    rank: int,
    zigzag: Zigzag,
    seen: list[list[Seen]],
    q: Tensor,
    k: Tensor,
    v: Tensor,
) -> Steps[tuple[Tensor, Tensor]]:
    """Attention of a rank's queries to the keys of all ranks.

    Args:
        kernel: computes the pieces.
        rank: this one's place in the ring.
        zigzag: who holds what.
        seen: what the queries see, as `seen_by` gives it.
        q: [B, S, H, head_dim], S the columns of this rank's part.
        k: [B, S, K, head_dim]; `v` alike.

    Returns:
        [B, S, H, width of a value] in the type of the queries, and the logarithms of
        the sums [B, H, S], in float32 or wider.
    """
    rows, queries, heads, _ = q.shape
    dtype = torch.promote_types(q.dtype, torch.float32)
    width, scale = width_of(q, v), 1 / math.sqrt(q.shape[-1])
    mixed = q.new_zeros((rows, heads, queries, width), dtype=dtype)
    total = q.new_full((rows, heads, queries), -math.inf, dtype=dtype)
    held: tuple[Tensor, ...] = k.contiguous(), v.contiguous()
    for step in range(zigzag.ranks):
        owner, ticket = (rank - step) % zigzag.ranks, None
        if step < zigzag.ranks - 1:
            ticket = yield Send(held, _of_owner(held, owner - 1, zigzag))
        for where, piece in seen[owner]:
            new = of_piece(kernel, q, held[0], held[1], where, piece, width, scale)
            places = where, slice(None), piece.queries
            merge(mixed[places], total[places], *new)
        if ticket is not None:
            held = yield Receive(ticket)
    out = mixed[..., : v.shape[-1]].transpose(1, 2).to(q.dtype)
    return out.contiguous(), total


def backward(
    kernel: BlockKernel,
    rank: int,
    zigzag: Zigzag,
    seen: list[list[Seen]],
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    sums: Tensor,
) -> Steps[tuple[Tensor, Tensor, Tensor]]:
    """Gradients of a rank's queries, keys and values.

    Args:
        kernel: computes the pieces; the arguments that follow are those of `forward`.
        rank: this one's place in the ring.
        zigzag: who holds what.
        seen: what the queries see.
        grad: of the result.
        q: queries.
        k: keys.
        v: values.
        out: what `forward` gave; `sums` too.

    Returns:
        Three tensors like q, k and v. The gradients of keys and values of all ranks'
        queries were added in float32 or wider.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    width, scale = width_of(q, v), 1 / math.sqrt(q.shape[-1])
    grad_q = torch.zeros_like(q, dtype=dtype)
    held: tuple[Tensor, ...] = k.contiguous(), v.contiguous()
    home: object = None
    for step in range(zigzag.ranks):
        owner, ticket = (rank - step) % zigzag.ranks, None
        if step < zigzag.ranks - 1:
            ticket = yield Send(held, _of_owner(held, owner - 1, zigzag))
        own = tuple(torch.zeros_like(x, dtype=dtype) for x in held)
        for where, piece in seen[owner]:
            given = grad, q, held[0], held[1], out, sums
            of_q, *of_keys = gradients_of_piece(
                kernel, *given, where, piece, width, scale
            )
            grad_q[where, piece.queries] += of_q[..., : q.shape[-1]]
            for sum_, new in zip(own, of_keys, strict=True):
                sum_[where, piece.keys] += new[..., : sum_.shape[-1]]
        if step:  # what the ranks before have added for these keys
            before = yield Receive(home)
            own = tuple(x.add_(y) for x, y in zip(own, before, strict=True))
        if zigzag.ranks > 1:
            home = yield Send(own, _of_owner(own, owner - 1, zigzag))
        if ticket is not None:
            held = yield Receive(ticket)
    if zigzag.ranks > 1:
        own = yield Receive(home)
    of_k, of_v = own
    return grad_q.to(q.dtype), of_k.to(k.dtype), of_v.to(v.dtype)


def _of_owner(
    held: tuple[Tensor, ...], owner: int, zigzag: Zigzag
) -> tuple[torch.Size, ...]:
    """Shapes of what is held where it is another rank's."""
    size = zigzag.size(owner % zigzag.ranks)
    return tuple(torch.Size((x.shape[0], size, *x.shape[2:])) for x in held)
