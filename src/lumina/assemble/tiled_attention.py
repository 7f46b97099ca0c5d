"""The attention of a plain block, with what looks at each token alone in tiles."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from lumina.model.attention import Attention
from lumina.model.block import Block
from lumina.model.context import BlockContext
from lumina.ops.attention.dispatch import attend
from lumina.ops.attention.in_groups import in_groups
from lumina.ops.largest_scores.note import note_largest
from lumina.ops.tiled import tiled


class TiledAttention:
    """Norm, projection and rotation of a block's attention in one tile.

    Then neither the norm's result nor unrotated queries and keys are kept. With several
    groups of heads, attention goes back group by group.

    Args:
        block: the block.
        attention: its attention.
        size: tokens of a tile.
        groups: of heads.
    """

    def __init__(
        self, block: Block, attention: Attention, size: int, groups: int
    ) -> None:
        self.block, self.attention = block, attention
        self.size, self.groups = size, groups
        self.whole, self.project = block.attend, attention.project
        norms = attention.q_norm, attention.k_norm
        self.owners = [
            block.attention_norm,
            attention.qkv,
            *(one for one in norms if one is not None),
        ]

    def attend(self, x_bsd: Tensor, context: BlockContext) -> Tensor:
        """In place of `Block.attend`."""
        if context.keys is not None:  # queries alone, of a pass whose keys are shared
            return self.whole(x_bsd, context)
        branch = self._at_once if self._keys_are_read_again(context) else self._grouped
        return self.block._drop(branch(x_bsd, context))

    def _keys_are_read_again(self, context: BlockContext) -> bool:
        """Whether keys outlive this pass, or there is nothing to divide."""
        shared = context.cache is not None or context.kept is not None
        return shared or self.groups == 1

    def _at_once(self, x_bsd: Tensor, context: BlockContext) -> Tensor:
        attention = self.attention
        attention.project = self._split  # type: ignore[method-assign]
        try:
            return attention(x_bsd, context)  # type: ignore[no-any-return]
        finally:
            del attention.project

    def _grouped(self, x_bsd: Tensor, context: BlockContext) -> Tensor:
        attention, pattern = self.attention, context.pattern
        qkv_bshd = self._projected(x_bsd, context)
        if attention.largest_logits is not None and attention.training:
            query, key, _ = qkv_bshd.detach().split(attention.heads, dim=2)
            note_largest(query, key, pattern, attention.largest_logits)
        seen = in_groups(
            qkv_bshd, attention.heads, self.groups, partial(attend, pattern=pattern)
        )
        return attention.out(seen.flatten(2))  # type: ignore[no-any-return]

    def _split(
        self, x_bsd: Tensor, context: BlockContext
    ) -> tuple[Tensor, Tensor, Tensor]:
        """In place of `Attention.project`, of what the norm has not seen."""
        whole = self._projected(x_bsd, context)
        query, key, value = whole.split(self.attention.heads, dim=2)
        return query, key, value

    def _projected(self, x_bsd: Tensor, context: BlockContext) -> Tensor:
        """[B, S, D] to queries, keys and values [B, S, all heads, head_dim]."""
        rows, length, _ = x_bsd.shape
        # Angles may be the same for all rows.
        angles = [
            one.expand(rows, length, *one.shape[2:]).flatten(0, 1)
            for one in (context.cos, context.sin)
        ]
        norm, project = self.block.attention_norm, self.project

        def run(x_td: Tensor, cos: Tensor, sin: Tensor, *_: Tensor) -> Tensor:
            own = replace(context, cos=cos.unsqueeze(0), sin=sin.unsqueeze(0))
            return torch.cat(
                [one.flatten(2) for one in project(norm(x_td.unsqueeze(0)), own)], -1
            ).squeeze(0)

        # Parameters are others once a network has left the meta device.
        weights = [one for owner in self.owners for one in owner.parameters()]
        flat = tiled(run, [x_bsd.flatten(0, 1), *angles], weights, self.size)
        return flat.view(rows, length, -1, self.attention.head_dim)
