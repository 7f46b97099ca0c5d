"""Between a cache and tokens of which only some are computed in a segment."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from lumina.model.attention import BlockContext
from lumina.model.cache_protocol import Cache
from lumina.ops.attention.dispatch import Pattern
from lumina.ops.attention.masks import causal_mask

Kept = tuple[Tensor, Tensor]
"""Keys and values of one application of a block, [B, S, K, head_dim] each."""


class WaitingKeys:
    """The new tokens' keys in a cache, segment by segment.

    Layer `segment * applications + a` of the cache is application `a` of a segment: of
    each token the keys that it has there, its last ones where it has halted. Segments
    that nobody has come to are not kept: their keys would be those of the last one.

    It is a `LayerCache` itself: blocks give it the keys of the tokens computed.

    Args:
        cache: where earlier tokens' keys are.
        applications: blocks a token goes through in a segment.
        none: keys and values [B, S, K, head_dim] of the new tokens before any segment.
    """

    def __init__(self, cache: Cache, applications: int, none: Kept) -> None:
        self.cache = cache
        self.held: list[Kept] = [none] * applications
        self._segment = -1
        self._index_bn: Tensor

    def begin(
        self, segment: int, context: BlockContext, index_bn: Tensor
    ) -> BlockContext:
        """The context of a segment.

        Args:
            segment: counted from 0.
            context: of all new tokens.
            index_bn: [B, n] int64, which of them are computed.
        """
        self._segment, self._index_bn = segment, index_bn
        count = len(self.held)
        for layer in range(segment * count, (segment + 1) * count):
            if segment and not self.cache.holds(layer):
                self.cache.fork(layer, layer - count)
        cos, sin = (
            _gather4(t.expand(index_bn.shape[0], -1, -1, -1), index_bn)
            for t in (context.cos, context.sin)
        )
        return replace(
            context,
            cos=cos,
            sin=sin,
            pattern=self._pattern(context),
            cache=self,  # type: ignore[arg-type]
        )

    def kept(self, application: int) -> Kept:
        """What the tokens to be computed had in the segment before."""
        keys, values = self.held[application]
        return _gather4(keys, self._index_bn), _gather4(values, self._index_bn)

    def update(self, layer_index: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, K, n, head_dim] of an application; returns all."""
        keys, values = (
            old.scatter(1, _place(self._index_bn, old), new.transpose(1, 2))
            for old, new in zip(self.held[layer_index], (k, v), strict=True)
        )
        self.held[layer_index] = keys, values
        return self._write(self._segment, layer_index)

    def finish(self) -> None:
        """Tokens that have halted stay what they are in the segments to come."""
        count, segment = len(self.held), self._segment + 1
        while self.cache.holds(segment * count):
            for application in range(count):
                self._write(segment, application)
            segment += 1

    def _write(self, segment: int, application: int) -> tuple[Tensor, Tensor]:
        keys, values = (t.transpose(1, 2) for t in self.held[application])
        layer = segment * len(self.held) + application
        return self.cache.update(layer, keys, values)

    def _pattern(self, context: BlockContext) -> Pattern:
        """Who the tokens at `_index_bn` see: themselves and what is before them."""
        new, (rows, count) = self.held[0][0].shape[1], self._index_bn.shape
        pattern = context.pattern
        if count == new:
            return pattern
        mask = pattern.mask
        if mask is None:
            device = self._index_bn.device
            mask = causal_mask(new, self.cache.length, 0, device)
        mask = mask.expand(rows, 1, new, -1)
        place = self._index_bn[:, None, :, None].expand(-1, -1, -1, mask.shape[-1])
        return Pattern(pattern.backend, mask.gather(2, place))


def gather(x_bsd: Tensor, index_bn: Tensor) -> Tensor:
    """[B, n, D] of [B, S, D]."""
    return x_bsd.gather(1, index_bn[..., None].expand(-1, -1, x_bsd.shape[-1]))


def _gather4(x: Tensor, index_bn: Tensor) -> Tensor:
    return x.gather(1, _place(index_bn, x))


def _place(index_bn: Tensor, x: Tensor) -> Tensor:
    """Places [B, n] as an index into [B, S, heads, width]."""
    return index_bn[..., None, None].expand(-1, -1, *x.shape[2:])
