"""The FlashAttention-2 that PyTorch has built in (Dao, 2023, arXiv:2307.08691)."""

from __future__ import annotations

import torch
from torch import Tensor

from lumina.ops.attention.block_kernels.table import BlockKernel, half, register


def _fits(q: Tensor, packed: bool) -> bool:
    return q.is_cuda and half(q)


def _run(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> list[Tensor]:
    found: list[Tensor] = torch.ops.aten._scaled_dot_product_flash_attention(
        q, k, v, 0.0, causal, False, scale=scale
    )
    return found


def _forward(
    q_bhsd: Tensor, k_bktd: Tensor, v_bktd: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    found = _run(q_bhsd, k_bktd, v_bktd, causal, scale)
    return found[0], found[1]


def _backward(
    grad_bhsd: Tensor,
    q_bhsd: Tensor,
    k_bktd: Tensor,
    v_bktd: Tensor,
    out_bhsd: Tensor,
    sums_bhs: Tensor,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    # Without dropout the random state is not used, but has to be of the right kind.
    one = q_bhsd[:1, :1, :1]
    *_, state, unused, _ = _run(one, one, one, False, scale)
    found = torch.ops.aten._scaled_dot_product_flash_attention_backward(
        grad_bhsd,
        q_bhsd,
        k_bktd,
        v_bktd,
        out_bhsd,
        sums_bhs.contiguous(),
        None,
        None,
        q_bhsd.shape[2],
        k_bktd.shape[2],
        0.0,
        causal,
        state,
        unused,
        scale=scale,
    )
    return found[0], found[1], found[2]


register(BlockKernel("flash", 1, _fits, _forward, _backward))
