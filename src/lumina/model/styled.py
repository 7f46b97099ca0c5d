"""Modules of GPT-2 and Phi-2, with the arithmetic of transformers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lumina.model.attention import Attention
from lumina.model.block import Block
from lumina.model.context import BlockContext
from lumina.model.kinds.kind import Branches
from lumina.model.layers import LayerNorm, Linear
from lumina.model.spec import ModelSpec
from lumina.ops.rotary.reference import rotate


class ShiftedNorm(LayerNorm):
    """Layer normalisation whose result has the type of what comes in."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] to [..., D]."""
        return super().forward(x).to(x.dtype)


class StyledAttention(Attention):
    """Attention with a bias behind it; the first channels of each head are rotated."""

    def __init__(self, spec: ModelSpec, layer_index: int) -> None:
        super().__init__(spec, layer_index)
        self.rotated = spec.rotary_dim
        width = spec.num_heads * spec.head_dim
        self.out = Linear(width, spec.hidden_size, bias=True)

    def project(
        self, x_bsd: Tensor, context: BlockContext
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `Attention.project`; channels behind the rotated ones stay."""
        qkv = self.qkv(x_bsd).unflatten(-1, (-1, self.head_dim))
        q_bshd, k_bskd, v_bskd = qkv.split(self.heads, dim=2)
        if not self.rotary:
            return q_bshd, k_bskd, v_bskd
        qk = qkv[:, :, : -self.heads[2]]
        turned = rotate(qk[..., : self.rotated], context.cos, context.sin)
        qk = torch.cat([turned, qk[..., self.rotated :]], dim=-1)
        q_bshd, k_bskd = qk.split(self.heads[:2], dim=2)
        return q_bshd, k_bskd, v_bskd


class GeluFeedForward(nn.Module):
    """down(gelu(up x)), with the approximation by tanh that GPT-2 has."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.up = Linear(spec.hidden_size, spec.intermediate_size, bias=True)
        self.down = Linear(spec.intermediate_size, spec.hidden_size, bias=True)

    def forward(self, x_bsd: Tensor) -> Tensor:
        """[B, S, D] to [B, S, D]."""
        inner = F.gelu(self.up(x_bsd), approximate="tanh")
        return self.down(inner)  # type: ignore[no-any-return]


class ShiftedBlock(Block):
    """A `Block` whose norms shift."""

    def __init__(self, spec: ModelSpec, branches: Branches) -> None:
        super().__init__(spec, branches)
        self.attention_norm = ShiftedNorm(spec.hidden_size, spec.norm_eps)  # type: ignore[assignment]
        self.feedforward_norm = ShiftedNorm(spec.hidden_size, spec.norm_eps)  # type: ignore[assignment]


class ParallelBlock(nn.Module):
    """x + attention(norm(x)) + feedforward(norm(x)), one norm for both.

    Args:
        spec: the resolved shape.
        branches: its attention and its feed-forward.
    """

    routed = False

    def __init__(self, spec: ModelSpec, branches: Branches) -> None:
        super().__init__()
        self.attention_norm = ShiftedNorm(spec.hidden_size, spec.norm_eps)
        self.attention = branches.attention
        self.feedforward = branches.feedforward

    def forward(
        self, x_bsd: Tensor, context: BlockContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """[B, S, D] to [B, S, D], and no sums."""
        inner = self.attention_norm(x_bsd)
        return x_bsd + self.attention(inner, context) + self.feedforward(inner), {}
