"""Grouped-query attention with rotary positions (Ainslie et al., arXiv:2305.13245)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lumina.model.context import BlockContext
from lumina.model.layers import HeadScale, Linear, ProjectionNorm, RMSNorm
from lumina.model.spec import ModelSpec
from lumina.ops.attention.dispatch import attend
from lumina.ops.largest_scores.note import note_largest
from lumina.ops.rotary.reference import rotate


class Attention(nn.Module):
    """Queries, keys and values from one matrix, attention, and the way out.

    Attributes:
        heads: of queries, keys and values.
        largest_logits: [heads of queries] float32, raised in every forward pass of
            training to the largest logits seen; None: not measured.
    """

    def __init__(self, spec: ModelSpec, layer_index: int) -> None:
        super().__init__()
        self.layer_index = layer_index
        self.head_dim = spec.head_dim
        self.rotary = spec.pos_encodings == "rope"
        self.heads = (spec.num_heads, spec.num_kv_heads, spec.num_kv_heads)
        widths = sum(self.heads) * spec.head_dim
        self.qkv = Linear(spec.hidden_size, widths, bias=spec.attention_bias)
        self.out = Linear(spec.num_heads * spec.head_dim, spec.hidden_size)
        self.q_norm = _head_norm(spec, spec.num_heads)
        self.k_norm = _head_norm(spec, spec.num_kv_heads)
        self.largest_logits: Tensor | None = None
        self.norms_together: Callable[..., tuple[Tensor, ...]] | None = None

    def project(
        self, x_bsd: Tensor, context: BlockContext
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[B, S, D] to queries, keys and values [B, S, heads, head_dim], rotated."""
        qkv = self.qkv(x_bsd).unflatten(-1, (-1, self.head_dim))
        q_bshd, k_bskd, v_bskd = qkv.split(self.heads, dim=2)
        if self.q_norm is not None and self.k_norm is not None:
            q_bshd, k_bskd = self._normed(q_bshd, k_bskd)
            if self.rotary:
                q_bshd = rotate(q_bshd, context.cos, context.sin)
                k_bskd = rotate(k_bskd, context.cos, context.sin)
        elif self.rotary:  # they lie side by side and turn in one go
            qk = rotate(qkv[:, :, : -self.heads[2]], context.cos, context.sin)
            q_bshd, k_bskd = qk.split(self.heads[:2], dim=2)
        return q_bshd, k_bskd, v_bskd

    def _normed(self, q_bshd: Tensor, k_bskd: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys by their norms."""
        q_norm, k_norm = self.q_norm, self.k_norm
        assert q_norm is not None and k_norm is not None
        if self.norms_together is None:
            return q_norm(q_bshd), k_norm(k_bskd)
        weights = (q_norm.weight, k_norm.weight)
        q_bshd, k_bskd = self.norms_together((q_bshd, k_bskd), weights, q_norm.eps)
        return q_bshd, k_bskd

    def rows_of_logits(self, factors: Tensor) -> dict[str, Tensor]:
        """What multiplies the logits of each head of queries by its factor.

        Keys belong to a group of heads: they take the root of the group's smallest
        factor, and each head of queries takes what its own factor then lacks. So a
        factor of 1 leaves the logits of a head as they are, also where another one of
        its group has less. With one head in a group, both take the root.

        Args:
            factors: [H], above 0 and at most 1.

        Returns:
            Factors [rows] of parameters, by their names in this module.
        """
        by_group = factors.view(self.heads[1], -1)
        keys = by_group.amin(1).sqrt()
        queries = (by_group / keys[:, None]).flatten()
        heads = torch.cat([queries, keys, torch.ones_like(keys)])
        rows = heads.repeat_interleave(self.head_dim)
        return {f"qkv.{name}": rows for name, _ in self.qkv.named_parameters()}

    def forward(self, x_bsd: Tensor, context: BlockContext) -> Tensor:
        """[B, S, D] to [B, S, D]."""
        if context.keys is not None:
            return self._ask(x_bsd, context.keys, context)
        return self.look(*self.project(x_bsd, context), context)

    def look(
        self, q_bshd: Tensor, k_bskd: Tensor, v_bskd: Tensor, context: BlockContext
    ) -> Tensor:
        """What these queries see of these keys and of those kept, [B, S, D]."""
        pattern = context.pattern
        if context.cache is not None:
            keys, pattern = context.stored(self.layer_index)
            k_bkd, v_bkd = keys.update(
                self.layer_index, k_bskd.transpose(1, 2), v_bskd.transpose(1, 2)
            )
            k_bskd, v_bskd = k_bkd.transpose(1, 2), v_bkd.transpose(1, 2)
        if context.kept is not None:
            context.kept.extend((k_bskd, v_bskd))
        if self.largest_logits is not None and self.training:
            note_largest(q_bshd, k_bskd, pattern, self.largest_logits)
        seen = attend(q_bshd, k_bskd, v_bskd, pattern)
        return self.out(seen.flatten(2))  # type: ignore[no-any-return]

    def _ask(
        self, x_bsd: Tensor, keys: tuple[Tensor, Tensor], context: BlockContext
    ) -> Tensor:
        """Queries alone, to the keys and values of another pass."""
        width = self.heads[0] * self.head_dim
        q_bshd = self.qkv(x_bsd, width).unflatten(-1, (-1, self.head_dim))
        if self.q_norm is not None:
            q_bshd = self.q_norm(q_bshd)
        if self.rotary:
            q_bshd = rotate(q_bshd, context.cos, context.sin)
        seen = attend(q_bshd, *keys, context.pattern)
        return self.out(seen.flatten(2))  # type: ignore[no-any-return]


def _head_norm(spec: ModelSpec, heads: int) -> nn.Module | None:
    """What normalises queries or keys before they are rotated."""
    if spec.qk_norm == "rms":
        return RMSNorm(spec.head_dim, spec.norm_eps)
    if spec.qk_norm == "rms_full":
        return ProjectionNorm(heads * spec.head_dim, spec.norm_eps)
    if spec.qk_norm == "l2":
        return HeadScale(heads, spec.norm_eps)
    return None
