"""The flash kernel that PyTorch has for CPUs."""

from __future__ import annotations

import torch
from torch import Tensor

from lumina.ops.attention.block_kernels.table import BlockKernel, register


def _fits(q: Tensor, packed: bool) -> bool:
    return q.is_cpu


def _forward(
    q_bhsd: Tensor, k_bktd: Tensor, v_bktd: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q_bhsd, k_bktd, v_bktd, 0.0, causal, scale=scale
    )
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
    # The kernel reads the sums as it writes them, the heads of a query side by side.
    sums = sums_bhs.transpose(1, 2).contiguous().transpose(1, 2)
    found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad_bhsd, q_bhsd, k_bktd, v_bktd, out_bhsd, sums, 0.0, causal, scale=scale
    )
    return found[0], found[1], found[2]


register(BlockKernel("cpu", 0, _fits, _forward, _backward))
