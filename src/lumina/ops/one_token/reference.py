"""The operations of a step of decoding, spelled out: B rows of one token each."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lumina.ops.attention.reference import attention
from lumina.ops.moe.grouped import swiglu
from lumina.ops.norm.reference import rms_norm
from lumina.ops.rotary.reference import rotate


class Heads(NamedTuple):
    """How the outputs of the first product are divided.

    Attributes:
        queries: H, heads of queries.
        keys: K, heads of keys, and as many of values.
        width: of a head.
    """

    queries: int
    keys: int
    width: int


class HeadNorms(NamedTuple):
    """RMSNorm of each head of queries and of keys, before they turn.

    Attributes:
        queries: [head_dim], the scale of queries.
        keys: [head_dim].
        eps: added to the mean square.
    """

    queries: Tensor
    keys: Tensor
    eps: float


class Places(NamedTuple):
    """Where the new token stands, and what it sees.

    Attributes:
        cos: [B, head_dim / 2] float32, as `sin`.
        slot_b: [B] int64, where its key goes.
        seen_bt: [B, T] bool, slots it sees, its own among them.
        columns_bt: [B, T] int64, which column of a pool that all rows share each slot
            is; None: every row has its own slots.
    """

    cos: Tensor
    sin: Tensor
    slot_b: Tensor
    seen_bt: Tensor
    columns_bt: Tensor | None = None


def norm_linear(
    x_bd: Tensor,
    scale: Tensor,
    eps: float,
    weight: Tensor,
    bias: Tensor | None = None,
    out: torch.dtype | None = None,
) -> Tensor:
    """RMSNorm, then a product.

    Args:
        x_bd: [B, D].
        scale: [D], of the norm.
        eps: added to the mean square.
        weight: [N, D], in the type of `x_bd`.
        bias: [N], or None.
        out: type of the result, which is rounded to that of `x_bd` first.

    Returns:
        [B, N].
    """
    y = F.linear(rms_norm(x_bd, scale, eps), weight, bias)
    return y if out is None else y.to(out)


def norm_swiglu(x_bd: Tensor, scale: Tensor, eps: float, gate_up: Tensor) -> Tensor:
    """RMSNorm, then silu(gate x) * up x: [B, D] and [2M, D] to [B, M]."""
    return swiglu(F.linear(rms_norm(x_bd, scale, eps), gate_up))


def linear_add(x_bd: Tensor, weight: Tensor, residual_bn: Tensor) -> Tensor:
    """residual + weight x: [B, D] and [N, D] to [B, N].

    What stands in `residual_bn` afterwards is not said: a fast version may use its
    place.
    """
    return residual_bn + F.linear(x_bd, weight)


def attend(
    qkv_bn: Tensor,
    heads: Heads,
    norms: HeadNorms | None,
    places: Places,
    keys: Tensor,
    values: Tensor,
) -> Tensor:
    """Turn queries and the key, keep key and value, and attend to what is seen.

    Args:
        qkv_bn: [B, (H + 2 K) head_dim].
        heads: how they are divided.
        norms: of queries and keys, or None.
        places: of the tokens.
        keys: [B, K, C, head_dim], written at the tokens' slots, as `values`; of a pool
            [1, K, C, head_dim].

    Returns:
        [B, H head_dim].
    """
    groups = (heads.queries, heads.keys, heads.keys)
    q, k, v = qkv_bn.unflatten(-1, (-1, heads.width))[:, None].split(groups, dim=2)
    if norms is not None:
        q = rms_norm(q, norms.queries, norms.eps)
        k = rms_norm(k, norms.keys, norms.eps)
    cos, sin = places.cos[:, None, None], places.sin[:, None, None]
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    mask = places.seen_bt[:, None, None]
    columns_bt = places.columns_bt
    if columns_bt is not None:
        column_b = columns_bt.gather(1, places.slot_b[:, None])[:, 0]
        for held, new in ((keys, k), (values, v)):
            held[0, :, column_b] = new[:, 0].transpose(0, 1)
        k, v = (held[0, :, columns_bt].transpose(0, 1) for held in (keys, values))
        return attention(q.transpose(1, 2), k, v, mask).flatten(1)
    for held, new in ((keys, k), (values, v)):
        index = places.slot_b[:, None, None, None].expand_as(new.transpose(1, 2))
        held.scatter_(2, index, new.transpose(1, 2))
    span = places.seen_bt.shape[1]
    y = attention(q.transpose(1, 2), keys[:, :, :span], values[:, :, :span], mask)
    return y.flatten(1)


def experts_swiglu(x_bd: Tensor, gate_up: Tensor, ids_bk: Tensor) -> Tensor:
    """silu(gate x) * up x by the chosen experts: [B, D], [E, 2M, D] to [B, k, M]."""
    return swiglu(torch.einsum("bd,bknd->bkn", x_bd, gate_up[ids_bk]))


def experts_down_add(
    hidden_bkm: Tensor,
    down: Tensor,
    ids_bk: Tensor,
    scores_bk: Tensor,
    residual_bd: Tensor,
) -> Tensor:
    """residual + the weighted sum of what chosen experts give, [B, D].

    Args:
        hidden_bkm: [B, k, M].
        down: [E, D, M].
        ids_bk: [B, k].
        scores_bk: [B, k] float32.
        residual_bd: [B, D].
    """
    each_bkd = torch.einsum("bkm,bkdm->bkd", hidden_bkm, down[ids_bk])
    total_bd = (each_bkd.float() * scores_bk[..., None]).sum(dim=1)
    return residual_bd + total_bd.to(residual_bd.dtype)
