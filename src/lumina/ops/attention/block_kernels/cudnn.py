"""cuDNN's kernel, ahead of FlashAttention-2 on Hopper and later (docs/attention.md)."""

from __future__ import annotations

import torch
from torch import Tensor

from lumina.ops.attention.block_kernels.table import BlockKernel, half, register
from lumina.ops.attention.fused import cudnn_first


def _fits(q: Tensor, packed: bool) -> bool:
    # It is made ready for each pair of lengths, and packed documents have many.
    wide = q.shape[-1] > 128
    return q.is_cuda and half(q) and not packed and not wide and cudnn_first()


def _run(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> list[Tensor]:
    found: list[Tensor] = torch.ops.aten._scaled_dot_product_cudnn_attention(
        q, k, v, None, True, 0.0, causal, False, scale=scale
    )
    return found


def _forward(
    q_bhsd: Tensor, k_bktd: Tensor, v_bktd: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    found = _run(q_bhsd, k_bktd, v_bktd, causal, scale)
    return found[0], found[1].view(q_bhsd.shape[:3])


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
    state = torch.zeros((), dtype=torch.int64, device=q_bhsd.device)
    found = torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
        grad_bhsd,
        q_bhsd,
        k_bktd,
        v_bktd,
        out_bhsd,
        sums_bhs.contiguous().unsqueeze(-1),
        state,
        state,
        None,
        None,
        None,
        q_bhsd.shape[2],
        k_bktd.shape[2],
        0.0,
        causal,
        scale=scale,
    )
    return found[0], found[1], found[2]


register(BlockKernel("cudnn", 0, _fits, _forward, _backward))
