"""Between a cache and tokens of which only some are computed in a segment.

Places of the computed tokens are [B, n] int64, or None where they are all.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from lumina.model.cache_protocol import Cache
from lumina.model.context import BlockContext
from lumina.ops.attention.dispatch import Pattern
from lumina.ops.attention.masks import causal_mask

Kept = tuple[Tensor, Tensor]
"""Keys and values of one application of a block, [B, S, K, head_dim] each."""


class WaitingKeys:
    """The new tokens' keys in a cache, segment by segment.

    Layer `segment * applications + a` of the cache is application `a` of a segment: of
    each token the keys that it has there, its last ones where it has halted. Segments
    that no token has come to are not kept: their keys would be those of the last one.

    It is a `LayerCache` itself: blocks give it the keys of the tokens computed.

    Args:
        cache: where earlier tokens' keys are; None where there are none.
        applications: blocks a token goes through in a segment.
        none: keys and values [B, S, K, head_dim] of the new tokens before any segment.
    """

    def __init__(self, cache: Cache | None, applications: int, none: Kept) -> None:
        self.cache = cache
        self.held: list[Kept] = [none] * applications
        self._segment = -1
        self._index_bn: Tensor | None = None

    def begin(
        self, segment: int, context: BlockContext, index_bn: Tensor | None
    ) -> BlockContext:
        """The context of a segment.

        Args:
            segment: counted from 0.
            context: of all new tokens.
            index_bn: which of them are computed.
        """
        self._segment, self._index_bn = segment, index_bn
        count = len(self.held)
        for layer in range(segment * count, (segment + 1) * count):
            if self.cache is not None and segment and not self.cache.holds(layer):
                self.cache.fork(layer, layer - count)
        context = replace(context, cache=self)  # type: ignore[arg-type]
        if index_bn is None:
            return context
        cos, sin = (
            _gather4(t.expand(index_bn.shape[0], -1, -1, -1), index_bn)
            for t in (context.cos, context.sin)
        )
        pattern = self._pattern(context.pattern, index_bn)
        return replace(context, cos=cos, sin=sin, pattern=pattern)

    def kept(self, application: int) -> Kept:
        """What the tokens to be computed had in the segment before."""
        keys, values = self.held[application]
        return _gather4(keys, self._index_bn), _gather4(values, self._index_bn)

    def update(self, layer_index: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, K, n, head_dim] of an application; returns all."""
        keys, values = k.transpose(1, 2), v.transpose(1, 2)
        if self._index_bn is not None:
            old_keys, old_values = self.held[layer_index]
            place = _place(self._index_bn, old_keys)
            keys = old_keys.scatter(1, place, keys)
            values = old_values.scatter(1, place, values)
        self.held[layer_index] = keys, values
        return self._write(self._segment, layer_index)

    def finish(self) -> None:
        """Tokens that have halted stay what they are in the segments to come."""
        count, segment = len(self.held), self._segment + 1
        while self.cache is not None and self.cache.holds(segment * count):
            for application in range(count):
                self._write(segment, application)
            segment += 1

    def _write(self, segment: int, application: int) -> tuple[Tensor, Tensor]:
        keys, values = (t.transpose(1, 2) for t in self.held[application])
        if self.cache is None:
            return keys, values
        layer = segment * len(self.held) + application
        return self.cache.update(layer, keys, values)

    def _pattern(self, pattern: Pattern, index_bn: Tensor) -> Pattern:
        """What the tokens at `index_bn` see: themselves and what is before them."""
        new, rows = self.held[0][0].shape[1], index_bn.shape[0]
        mask = pattern.mask
        if mask is None:
            keys = new if self.cache is None else self.cache.length
            mask = causal_mask(new, keys, 0, index_bn.device)
        mask = mask.expand(rows, 1, new, -1)
        place = index_bn[:, None, :, None].expand(-1, -1, -1, mask.shape[-1])
        return Pattern(pattern.backend, mask.gather(2, place))


def gather(x_bsd: Tensor, index_bn: Tensor | None) -> Tensor:
    """[B, n, D] of [B, S, D]."""
    if index_bn is None:
        return x_bsd
    return x_bsd.gather(1, index_bn[..., None].expand(-1, -1, x_bsd.shape[-1]))


def put(x_bsd: Tensor, index_bn: Tensor | None, new_bnd: Tensor) -> Tensor:
    """[B, S, D] with [B, n, D] at their places."""
    if index_bn is None:
        return new_bnd
    return x_bsd.scatter(1, index_bn[..., None].expand_as(new_bnd), new_bnd)


def _gather4(x: Tensor, index_bn: Tensor | None) -> Tensor:
    return x if index_bn is None else x.gather(1, _place(index_bn, x))


def _place(index_bn: Tensor, x: Tensor) -> Tensor:
    """Places [B, n] as an index into [B, S, heads, width]."""
    return index_bn[..., None, None].expand(-1, -1, *x.shape[2:])
