"""One pre-norm transformer block."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn
from torch.nn import functional as F

from lumina.model.context import BlockContext
from lumina.model.kinds.kind import Branches
from lumina.model.layers import RMSNorm
from lumina.model.spec import ModelSpec


class Block(nn.Module):
    """x + attention(norm(x)), then x + feedforward(norm(x)).

    A pure function of its tensors: it keeps nothing, so it may be recomputed,
    compiled and sharded from outside.

    Args:
        spec: the resolved shape.
        branches: its attention and its feed-forward.

    Attributes:
        routed: the feed-forward takes the valid tokens too and returns auxiliary sums.
    """

    def __init__(self, spec: ModelSpec, branches: Branches) -> None:
        super().__init__()
        self.dropout = spec.dropout
        self.routed: bool = getattr(branches.feedforward, "routed", False)
        self.attention_norm = RMSNorm(spec.hidden_size, spec.norm_eps)
        self.attention = branches.attention
        self.feedforward_norm = RMSNorm(spec.hidden_size, spec.norm_eps)
        self.feedforward = branches.feedforward

    def forward(
        self, x_bsd: Tensor, context: BlockContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """[B, S, D] to [B, S, D], and the routed layer's sums (empty when dense).

        Where later passes share them, also `mor.keys` and `mor.values`.
        """
        kept: list[Tensor] = []
        if context.keep_keys:
            context = replace(context, kept=kept)
        x_bsd = x_bsd + self.attend(x_bsd, context)
        x_bsd, aux = self.add_feed(x_bsd, context)
        if context.keep_keys:
            aux = aux | {"mor.keys": kept[0], "mor.values": kept[1]}
        return x_bsd, aux

    def attend(self, x_bsd: Tensor, context: BlockContext) -> Tensor:
        """The attention branch, [B, S, D]: what it adds to its input."""
        return self._drop(self.attention(self.attention_norm(x_bsd), context))

    def feed(
        self, x_bsd: Tensor, context: BlockContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The feed-forward branch, [B, S, D], and the routed layer's sums."""
        inner_bsd = self.feedforward_norm(x_bsd)
        aux: dict[str, Tensor] = {}
        if self.routed:
            y_bsd, aux = self.feedforward(inner_bsd, context.valid)
        else:
            y_bsd = self.feedforward(inner_bsd)
        return self._drop(y_bsd), aux

    def add_feed(
        self, x_bsd: Tensor, context: BlockContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """[B, S, D] and what the feed-forward branch adds to it, and its sums."""
        y_bsd, aux = self.feed(x_bsd, context)
        return x_bsd + y_bsd, aux

    def _drop(self, branch_bsd: Tensor) -> Tensor:
        """Dropout of a residual branch, in training only."""
        if not self.dropout:
            return branch_bsd
        return F.dropout(branch_bsd, self.dropout, self.training)
