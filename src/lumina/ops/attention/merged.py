"""Attention in pieces, each computed by a kernel, merged by the logarithms of its sums.

Of two blocks of keys with results a and b and logarithms of sums s and t, the result
of both is a + sigmoid(t - s) (b - a), and the logarithm is log(exp s + exp t). A
piece's gradients need the merged result and logarithm alone, as in ring attention (Liu
et al., 2023, arXiv:2310.01889).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from lumina.ops.attention.block_kernels.table import BlockKernel, laid_out
from lumina.ops.attention.pieces import ANTICAUSAL, CAUSAL, Group, Piece

MULTIPLE = 8
"""Widths of heads are filled up to a multiple of this."""


def forward(
    kernel: BlockKernel, q: Tensor, k: Tensor, v: Tensor, groups: list[Group]
) -> tuple[Tensor, Tensor]:
    """Attention, and the logarithm of each softmax's sum.

    Args:
        kernel: computes the pieces.
        q: [B, S, H, head_dim].
        k: [B, T, K, head_dim], perhaps in host memory; `v` alike.
        groups: what the queries see; every query is in one group.

    Returns:
        [B, S, H, width of a value] in the type of the queries, [B, H, S] float32.
    """
    out = q.new_empty((*q.shape[:3], v.shape[-1]))
    sums = q.new_empty((q.shape[0], q.shape[2], q.shape[1]), dtype=torch.float32)
    width, scale = width_of(q, v), 1 / math.sqrt(q.shape[-1])
    for group in groups:
        first, *others = group.pieces
        mixed, total = of_piece(kernel, q, k, v, group.rows, first, width, scale)
        if others:
            mixed = mixed.float()
        for piece in others:
            part = slice(
                piece.queries.start - group.queries.start,
                piece.queries.stop - group.queries.start,
            )
            new = of_piece(kernel, q, k, v, group.rows, piece, width, scale)
            merge(mixed[:, :, part], total[:, :, part], *new)
        value = mixed[..., : v.shape[-1]].transpose(1, 2)
        out[group.rows, group.queries] = value.to(q.dtype)
        sums[group.rows, :, group.queries] = total
    return out, sums


def backward(
    kernel: BlockKernel,
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    sums: Tensor,
    groups: list[Group],
    into: tuple[Tensor, Tensor],
) -> Tensor:
    """The gradient of the queries; those of keys and values are added to what is there.

    Args:
        kernel: computes the pieces.
        grad: of the result, [B, S, H, width of a value].
        q: [B, S, H, head_dim].
        k: [B, T, K, head_dim], perhaps in host memory; `v` alike.
        out: what `forward` gave; `sums` too.
        groups: as forward.
        into: float32 sums of the gradients of keys and values, where these are.
    """
    grad_q = torch.empty_like(q)
    width, scale = width_of(q, v), 1 / math.sqrt(q.shape[-1])
    for group in groups:
        size = group.queries.stop - group.queries.start
        found = q.new_zeros(
            (group.rows.stop - group.rows.start, size, *q.shape[2:]),
            dtype=torch.float32,
        )
        for piece in group.pieces:
            given = grad, q, k, v, out, sums
            of_q, of_k, of_v = gradients_of_piece(
                kernel, *given, group.rows, piece, width, scale
            )
            begin = piece.queries.start - group.queries.start
            end = piece.queries.stop - group.queries.start
            found[:, begin:end] += of_q[..., : q.shape[-1]]
            for total, new in zip(into, (of_k, of_v), strict=True):
                add_to(total, group.rows, piece.keys, new[..., : total.shape[-1]])
        grad_q[group.rows, group.queries] = found.to(q.dtype)
    return grad_q


def add_to(total: Tensor, rows: slice, keys: slice, new: Tensor) -> None:
    """Add gradients to their sums; those in host memory are brought over for it.

    A row at a time: page-locked memory without gaps is copied in the order of the
    device's work, while a CPU would touch it at once.
    """
    if total.device == new.device:
        total[rows, keys] += new
        return
    for row, of_row in zip(total[rows, keys], new, strict=True):
        here = row.to(new.device, non_blocking=True)
        row.copy_(here.add_(of_row), non_blocking=True)


def brought(x: Tensor, device: torch.device) -> Tensor:
    """The same values on a device, in their own type, in the order of its work.

    A row at a time, as in `add_to`. A copy that changes the type or gathers rows reads
    page-locked memory with the CPU, at once, while the device may yet write to it.
    """
    if x.device == device:
        return x
    return torch.stack([row.to(device, non_blocking=True) for row in x])


def merge(mixed: Tensor, total: Tensor, add: Tensor, sums: Tensor) -> None:
    """Merge the result of further keys into what there is, in place.

    Args:
        mixed: [B, H, s, width] the result so far, in float32 or wider.
        total: [B, H, s] its logarithms; -inf where nothing was seen so far.
        add: the further result.
        sums: its logarithms, which are finite.
    """
    share = torch.sigmoid(sums - total)[..., None].to(mixed.dtype)
    mixed.lerp_(add.to(mixed.dtype), share)
    total.copy_(torch.logaddexp(total, sums.to(total.dtype)))


def of_piece(
    kernel: BlockKernel,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: slice,
    piece: Piece,
    width: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """The result of one piece and the logarithms of its sums, by head."""
    flip = piece.shape == ANTICAUSAL
    query = _block(q, rows, piece.queries, width, flip, q.device)
    key, value = (_block(x, rows, piece.keys, width, flip, q.device) for x in (k, v))
    out, sums = kernel.forward(query, key, value, _causal(piece), scale)
    if flip:
        return out.flip(2), sums.flip(2)
    return out, sums


def gradients_of_piece(
    kernel: BlockKernel,
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    sums: Tensor,
    rows: slice,
    piece: Piece,
    width: int,
    scale: float,
) -> Iterator[Tensor]:
    """One piece's gradients of its queries, keys and values, [B, s, heads, width].

    Args:
        kernel: computes it.
        grad: of the merged result, [B, S, H, width of a value].
        q: all queries; `k` and `v` alike.
        out: the merged result; `sums` its logarithms [B, H, S].
        rows: of the batch.
        piece: its places among the queries and keys.
        width: as `width_of`; the gradients have it.
        scale: of the scores.
    """
    flip = piece.shape == ANTICAUSAL
    given, query, result = (
        _block(x, rows, piece.queries, width, flip, q.device) for x in (grad, q, out)
    )
    key, value = (_block(x, rows, piece.keys, width, flip, q.device) for x in (k, v))
    sum_ = sums[rows, :, piece.queries]
    sum_ = sum_.flip(2) if flip else sum_
    parts = kernel.backward(
        given, query, key, value, result, sum_, _causal(piece), scale
    )
    return ((x.flip(2) if flip else x).transpose(1, 2) for x in parts)


def _causal(piece: Piece) -> bool:
    # From the last query to the first, the far edge of a window is causal order.
    return piece.shape in (CAUSAL, ANTICAUSAL)


def width_of(q: Tensor, v: Tensor) -> int:
    """What queries, keys and values are filled up to with zeros."""
    return -(-max(q.shape[-1], v.shape[-1]) // MULTIPLE) * MULTIPLE


def _block(
    x_bskd: Tensor,
    rows: slice,
    place: slice,
    width: int,
    flip: bool,
    device: torch.device,
) -> Tensor:
    """[B, K, s, width] on `device`, of the tokens at some places of some rows."""
    part = brought(x_bskd[rows, place], device)
    if flip:
        part = part.flip(1)
    if part.shape[-1] < width:
        part = F.pad(part, (0, width - part.shape[-1]))
    return laid_out(part.transpose(1, 2))
