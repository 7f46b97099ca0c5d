"""A rank's part of rows, and attention of it, as blocks of a network see them."""

from __future__ import annotations

import itertools
import weakref
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lumina.ops.attention.block_kernels.table import (
    BLOCK_KERNELS,
    BlockKernel,
    chosen,
)
from lumina.ops.attention.ring import passes, plain
from lumina.ops.attention.ring.link import Alone, Link, carry_out
from lumina.ops.attention.ring.seen import Seen, seen_by
from lumina.ops.attention.ring.zigzag import Zigzag

_numbers = itertools.count()
_SIGHTS: weakref.WeakValueDictionary[int, Sight] = weakref.WeakValueDictionary()
"""What is seen, by number: an operation that is compiled takes tensors only."""


@dataclass(frozen=True)
class RowPart:
    """This rank's part of the rows of a batch.

    Attributes:
        zigzag: which columns each rank has.
        rank: this one's place in the ring.
        count: rows.
        starts: [B, columns here] int64 on the CPU, the column of the whole row in which
            the document of each token begins; None: every row is one document.
        link: with the next rank and with the one before.
    """

    zigzag: Zigzag
    rank: int
    count: int
    starts: Tensor | None = None
    link: Link = field(default_factory=Alone)
    _sights: dict[tuple[int, int], Sight] = field(default_factory=dict, compare=False)

    def rows(self, begin: int, end: int) -> RowPart:
        """The same of some of the rows."""
        starts = None if self.starts is None else self.starts[begin:end]
        count = min(end, self.count) - begin
        return replace(self, count=count, starts=starts, _sights={})

    def seen(self, window: int, sinks: int) -> Tensor:
        """What `ring_attention` finds all by that the queries see.

        It is made once, and holds as long as this object lives, which therefore has to
        outlive the backward pass.

        Args:
            window: tokens that a query sees, itself among them; 0: all.
            sinks: first tokens of a document that stay visible beyond the window.

        Returns:
            [] int64 on the CPU.
        """
        if (window, sinks) not in self._sights:
            pieces = seen_by(
                self.rank, self.zigzag, self.starts, self.count, window, sinks
            )
            self._sights[window, sinks] = Sight(self, pieces)
        return self._sights[window, sinks].handle


class Sight:
    """What the queries of a part see of the keys of all ranks.

    Attributes:
        zigzag: which columns each rank has.
        rank: this one's place in the ring.
        link: with the next rank and with the one before.
        packed: rows may hold several documents.
        seen: pieces, by the rank that holds the keys.
        handle: [] int64 on the CPU, by which `ring_attention` finds this object.
    """

    def __init__(self, part: RowPart, seen: list[list[Seen]]) -> None:
        self.zigzag, self.rank, self.link = part.zigzag, part.rank, part.link
        self.packed = part.starts is not None
        self.seen = seen
        number = next(_numbers)
        self.handle = torch.tensor(number)
        _SIGHTS[number] = self

    def kernel(self, q: Tensor, v: Tensor) -> BlockKernel:
        """What computes pieces of such queries and values."""
        found = BLOCK_KERNELS.found(chosen(q, v.shape[-1], self.packed))
        return plain.KERNEL if found is None else found


@torch.library.custom_op("lumina::ring_attention", mutates_args=())
def ring_attention(
    q: Tensor, k: Tensor, v: Tensor, handle: Tensor
) -> tuple[Tensor, Tensor]:
    """Attention of this rank's queries to the keys of all ranks.

    Every rank of the ring calls it at the same place.

    Args:
        q: [B, S, H, head_dim], S the columns of this rank's part.
        k: [B, S, K, head_dim], H a multiple of K; `v` alike.
        handle: as `Sight.handle` says.

    Returns:
        [B, S, H, width of a value] in the type of the queries, and the logarithm of
        each softmax's sum, [B, H, S], in float32 or wider.
    """
    sight = _SIGHTS[int(handle)]
    kernel = sight.kernel(q, v)
    steps = passes.forward(kernel, sight.rank, sight.zigzag, sight.seen, q, k, v)
    return carry_out(steps, sight.link)


@ring_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, handle: Tensor) -> tuple[Tensor, Tensor]:
    rows, queries, heads, _ = q.shape
    dtype = torch.promote_types(q.dtype, torch.float32)
    sums = q.new_empty((rows, heads, queries), dtype=dtype)
    return q.new_empty((rows, queries, heads, v.shape[-1])), sums


@torch.library.custom_op("lumina::ring_attention_backward", mutates_args=())
def ring_attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    sums: Tensor,
    handle: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of this rank's queries, keys and values, of all ranks' queries."""
    sight = _SIGHTS[int(handle)]
    kernel, ring = sight.kernel(q, v), (sight.rank, sight.zigzag, sight.seen)
    steps = passes.backward(kernel, *ring, grad, q, k, v, out, sums)
    return carry_out(steps, sight.link)


@ring_attention_backward.register_fake
def _(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    sums: Tensor,
    handle: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), k.new_empty(k.shape), v.new_empty(v.shape)


def _keep(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    q, k, v, handle = inputs
    ctx.save_for_backward(q, k, v, *output, handle)


def _back(ctx, grad, _):  # type: ignore[no-untyped-def]
    return *ring_attention_backward(grad, *ctx.saved_tensors), None


ring_attention.register_autograd(_back, setup_context=_keep)
