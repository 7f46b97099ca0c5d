"""Kernels of attention that give the logarithm of each softmax's sum with the result.

With it, results of several blocks of keys can be merged, and a block's gradients follow
from the merged result (Liu et al., 2023, arXiv:2310.01889). A kernel is a file of this
package that calls `register`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lumina.found_by_name import FoundByName


class Forward(Protocol):
    """Attention of one block."""

    def __call__(
        self, q_bhsd: Tensor, k_bktd: Tensor, v_bktd: Tensor, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        """The result [B, H, S, head_dim], and the logarithms [B, H, S] in float32.

        Args:
            q_bhsd: [B, H, S, head_dim], from [B, S, H, head_dim] in memory.
            k_bktd: [B, K, T, head_dim] likewise, H a multiple of K; `v_bktd` alike.
            causal: a query sees the keys up to its own place (T equals S); else all.
            scale: of the scores.
        """


class Backward(Protocol):
    """Gradients of one block."""

    def __call__(
        self,
        grad_bhsd: Tensor,
        q_bhsd: Tensor,
        k_bktd: Tensor,
        v_bktd: Tensor,
        out_bhsd: Tensor,
        sums_bhs: Tensor,
        causal: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The block's part of the gradients of queries, keys and values.

        Args:
            grad_bhsd: of the merged result.
            q_bhsd: as forward; `k_bktd`, `v_bktd`, `causal` and `scale` alike.
            out_bhsd: the merged result.
            sums_bhs: its logarithms, over all blocks of keys.
        """


@dataclass(frozen=True)
class BlockKernel:
    """A kernel for blocks of attention.

    Attributes:
        name: of its file.
        rank: where several fit, the one with the lowest is taken.
        fits: whether it takes queries of a device and type, of rows that are packed
            documents or not. Widths of heads are padded to multiples of 8.
        forward: attention of a block.
        backward: its gradients.
    """

    name: str
    rank: int
    fits: Callable[[Tensor, bool], bool]
    forward: Forward
    backward: Backward


BLOCK_KERNELS: FoundByName[BlockKernel] = FoundByName(
    "lumina.ops.attention.block_kernels"
)
"""By name; files of this package that register nothing are no kernels."""

PLAIN = "plain"
"""In the place of a kernel's name: arithmetic with all scores of a block in float32."""

AUTO = "auto"
"""In the place of a kernel's name: the fastest for the tensors at hand, or `PLAIN`."""


def register(kernel: BlockKernel) -> None:
    """Add a kernel."""
    BLOCK_KERNELS[kernel.name] = kernel


def chosen(q: Tensor, width: int, packed: bool) -> str:
    """The kernel for some queries, or `PLAIN`.

    Args:
        q: [B, S, H, head_dim].
        width: of a value.
        packed: rows hold several documents.
    """
    if max(q.shape[-1], width) > 256:
        return PLAIN
    found = [BLOCK_KERNELS.found(name) for name in BLOCK_KERNELS.known()]
    fitting = [one for one in found if one is not None and one.fits(q, packed)]
    return min(fitting, key=lambda one: one.rank).name if fitting else PLAIN


def half(q: Tensor) -> bool:
    """Whether queries have a type of 16 bits."""
    return q.dtype in (torch.bfloat16, torch.float16)


def laid_out(x_bhsd: Tensor) -> Tensor:
    """The same values, in memory as [B, S, H, head_dim] without gaps."""
    return x_bhsd.transpose(1, 2).contiguous().transpose(1, 2)
