"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434; V3, arXiv:2412.19437).

Keys and values of all heads come from one small vector a token, and only that vector
and one rotated key, shared by the heads, need to be kept for generation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lumina.model.context import BlockContext
from lumina.model.layers import Linear, RMSNorm
from lumina.model.spec import ModelSpec
from lumina.ops.attention.dispatch import attend
from lumina.ops.largest_scores.note import note_largest
from lumina.ops.rotary.reference import rotate

LATENT_EPS = 1e-6
"""Epsilon of the latents' norms, which DeepSeek sets apart from the others."""


class LatentAttention(nn.Module):
    """Attention whose keys and values pass through a narrow latent.

    Each head is `mla_rope_dim` rotated channels beside plain ones; rotated channels
    are laid out in neighbouring pairs, as DeepSeek's.

    Attributes:
        largest_logits: as of `Attention`.
    """

    def __init__(self, spec: ModelSpec, layer_index: int) -> None:
        super().__init__()
        self.layer_index = layer_index
        self.value_dim = spec.mla_value_dim
        self.plain_dim = spec.head_dim - spec.mla_rope_dim
        self.widths = (self.plain_dim, spec.mla_rope_dim)
        self.scale = score_scale(spec)
        heads, rank, width = spec.num_heads, spec.mla_kv_rank, spec.hidden_size
        if spec.mla_q_rank:
            self.q_down = Linear(width, spec.mla_q_rank)
            self.q_latent_norm = RMSNorm(spec.mla_q_rank, LATENT_EPS)
            self.q_up = Linear(spec.mla_q_rank, heads * spec.head_dim)
        else:
            self.q = Linear(width, heads * spec.head_dim)
        self.kv_down = Linear(width, rank + spec.mla_rope_dim)
        self.kv_latent_norm = RMSNorm(rank, LATENT_EPS)
        self.kv_up = Linear(rank, heads * (self.plain_dim + self.value_dim))
        self.out = Linear(heads * self.value_dim, width)
        self.largest_logits: Tensor | None = None

    def rows_of_logits(self, factors: Tensor) -> dict[str, Tensor]:
        """What multiplies the logits of each head by its factor.

        Of plain channels, queries and keys take the root; of rotated ones the queries
        take all, for their key is shared by the heads (arXiv:2507.20534, section 2.1).

        Args:
            factors: [H], above 0 and at most 1.

        Returns:
            Factors [rows] of parameters, by their names in this module.
        """
        root, one = factors.sqrt(), torch.ones_like(factors)

        def rows(*parts: tuple[Tensor, int]) -> Tensor:
            wide = [part[:, None].expand(-1, width) for part, width in parts]
            return torch.cat(wide, dim=1).flatten()

        queries = rows((root, self.plain_dim), (factors, self.widths[1]))
        keys = rows((root, self.plain_dim), (one, self.value_dim))
        name = "q_up.weight" if hasattr(self, "q_up") else "q.weight"
        return {name: queries, "kv_up.weight": keys}

    def forward(self, x_bsd: Tensor, context: BlockContext) -> Tensor:
        """[B, S, D] to [B, S, D]."""
        q_bshd = self._queries(x_bsd, context)
        if context.keys is not None:
            return self._out(attend(q_bshd, *context.keys, context.pattern))
        latent, turned = self.kv_down(x_bsd).split(
            (self.kv_latent_norm.weight.shape[0], self.widths[1]), dim=-1
        )
        latent_bs1r = self.kv_latent_norm(latent).unsqueeze(2)
        turned_bs1r = _turn(turned.unsqueeze(2), context)
        pattern = context.pattern
        if context.cache is not None:
            keys, pattern = context.stored(self.layer_index)
            latent, turned = keys.update(
                self.layer_index,
                latent_bs1r.transpose(1, 2),
                turned_bs1r.transpose(1, 2),
            )
            latent_bs1r, turned_bs1r = latent.transpose(1, 2), turned.transpose(1, 2)
        up = self.kv_up(latent_bs1r.squeeze(2))
        up = up.unflatten(-1, (-1, self.plain_dim + self.value_dim))
        plain, v_bshd = up.split((self.plain_dim, self.value_dim), dim=-1)
        turned = turned_bs1r.expand(*plain.shape[:3], -1)
        k_bshd = torch.cat([plain, turned], dim=-1)
        # The kernels want values as wide as keys; zeros add nothing.
        v_bshd = F.pad(v_bshd, (0, k_bshd.shape[-1] - self.value_dim))
        if context.kept is not None:
            context.kept.extend((k_bshd, v_bshd))
        if self.largest_logits is not None and self.training:
            note_largest(q_bshd, k_bshd, pattern, self.largest_logits)
        return self._out(attend(q_bshd, k_bshd, v_bshd, pattern))

    def _out(self, seen_bshd: Tensor) -> Tensor:
        """What was seen, without the zeros it was filled up with, [B, S, D]."""
        seen_bshd = seen_bshd[..., : self.value_dim]
        return self.out(seen_bshd.flatten(2))  # type: ignore[no-any-return]

    def _queries(self, x_bsd: Tensor, context: BlockContext) -> Tensor:
        """[B, S, H, head_dim], rotated."""
        if hasattr(self, "q_up"):
            q = self.q_up(self.q_latent_norm(self.q_down(x_bsd)))
        else:
            q = self.q(x_bsd)
        if self.scale != 1.0:
            q = q * self.scale
        plain, turned = q.unflatten(-1, (-1, sum(self.widths))).split(
            self.widths, dim=-1
        )
        return torch.cat([plain, _turn(turned, context)], dim=-1)


def score_scale(spec: ModelSpec) -> float:
    """YaRN's temperature, here on whole scores instead of the rotary tables."""
    if spec.rope_scaling != "yarn" or spec.rope_factor <= 1:
        return 1.0
    return (0.1 * math.log(spec.rope_factor) + 1.0) ** 2


def _turn(x_bshr: Tensor, context: BlockContext) -> Tensor:
    """Rotate neighbouring pairs; afterwards first halves lie before second ones."""
    halves = x_bshr.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
    return rotate(halves, context.cos, context.sin)
