"""Experts divided over ranks: rows go to the rank of their expert, and come back.

Expert parallelism as in GShard (Lepikhin et al., 2020, arXiv:2006.16668) and
DeepSpeed-MoE (Rajbhandari et al., 2022, arXiv:2201.05596): every rank routes its own
tokens, an all-to-all takes each row to the rank that holds its expert, another one
brings the results back, and backward is the same exchange the other way round.

The ranks' rows reach an expert in the order of the ranks. So an expert sees what it
would see in one process that is given the tokens of all ranks one after the other.
Places (`lumina.ops.moe.capacity`) are those of each rank's own micro-batch: a rank
drops what it would drop without expert parallelism, as one process would that takes the
ranks' micro-batches one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class Peers(Protocol):
    """The ranks over which experts are divided; all of them call it together."""

    @property
    def size(self) -> int:
        """How many ranks there are."""

    def exchange(self, tensor: Tensor) -> Tensor:
        """[R, ...]: what each rank has for this one, of [R, ...] that this one has."""

    def exchange_rows(
        self, rows: Tensor, sent: Sequence[int], received: Sequence[int]
    ) -> Tensor:
        """Rows from each rank in turn.

        Args:
            rows: [sum(sent), ...], in the order of the ranks that they are for.
            sent: how many go to each rank.
            received: how many come from each rank.
        """


@dataclass(frozen=True)
class Parted:
    """How the experts of a layer are divided over ranks.

    Attributes:
        peers: the ranks. Each holds as many experts as any other, in consecutive slots.
        num_experts: of the layer.
        slots: [E] the slot of each expert; None where expert e is in slot e.
        held: [E] the inverse, the expert of each slot.
    """

    peers: Peers
    num_experts: int
    slots: Tensor | None = None
    held: Tensor | None = None

    @property
    def here(self) -> int:
        """How many experts a rank holds."""
        return self.num_experts // self.peers.size

    def slots_of(self, ids: Tensor) -> Tensor:
        """The slots of experts."""
        return ids if self.slots is None else self.slots[ids]


class _Permute(torch.autograd.Function):
    """Rows in another order; its derivative is a gather too, not a scatter."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x[order]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return grad[inverse], None, None


def _permuted(x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    moved: Tensor = _Permute.apply(x, order, inverse)
    return moved


class _Rows(torch.autograd.Function):
    """Uneven exchange of rows; gradients return the way that rows came."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, peers: Peers, sent: list[int], received: list[int]
    ) -> Tensor:
        ctx.peers, ctx.sent, ctx.received = peers, sent, received
        return peers.exchange_rows(rows, sent, received)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        found = ctx.peers.exchange_rows(grad, ctx.received, ctx.sent)
        return found, None, None, None


class _Even(torch.autograd.Function):
    """Exchange of as many rows with every rank: its own inverse."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, peers: Peers) -> Tensor:
        ctx.peers = peers
        return peers.exchange(tensor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.peers.exchange(grad.contiguous()), None


def rows_across(
    x_nd: Tensor,
    offsets_e: Tensor,
    parted: Parted,
    feed: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Rows sorted by slot through the experts of all ranks.

    The host waits for the counts once: it sizes the messages by them. Not for compiled
    blocks, because those sizes are those of each step's routing.

    Args:
        x_nd: [N, D] this rank's rows, sorted by the slot of their expert.
        offsets_e: [E] where the rows of each slot end.
        parted: which rank holds which slots.
        feed: rows [n, D] sorted by expert, and where those of each expert of this rank
            end [E / R] int32, to [n, D].

    Returns:
        [N, D] in the order of `x_nd`.
    """
    peers, here = parted.peers, parted.here
    counts_re = torch.diff(offsets_e, prepend=offsets_e.new_zeros(1)).view(-1, here)
    found_re = peers.exchange(counts_re)
    sent, received = torch.stack([counts_re.sum(1), found_re.sum(1)]).tolist()
    rows_md: Tensor = _Rows.apply(x_nd, peers, sent, received)
    # They come by rank, then by expert; products take them by expert, then by rank.
    experts = torch.arange(here, device=x_nd.device).repeat(peers.size)
    expert_m = experts.repeat_interleave(found_re.flatten(), output_size=sum(received))
    order = torch.sort(expert_m, stable=True).indices
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order), device=order.device)
    sorted_md = _permuted(rows_md, order, inverse)
    ends = found_re.sum(0).cumsum(0, dtype=torch.int32)
    if len(order):
        y_md = feed(sorted_md, ends)
    else:
        # A row of zeros for the first expert: no product is without any row, and the
        # matrices have a gradient on every rank, of zeros here.
        blank = torch.cat([sorted_md, sorted_md.new_zeros(1, x_nd.shape[1])])
        y_md = feed(blank, torch.ones_like(ends))[:0]
    back_md = _permuted(y_md, inverse, order)
    y_nd: Tensor = _Rows.apply(back_md, peers, received, sent)
    return y_nd


def places_across(
    x_ecd: Tensor, parted: Parted, feed: Callable[[Tensor], Tensor]
) -> Tensor:
    """Rows in places through the experts of all ranks; shapes depend on no routing.

    Args:
        x_ecd: [E, C, D] this rank's rows by expert; C is the same on all ranks.
        parted: which rank holds which slots.
        feed: rows [E / R, R * C, D] of the experts of this rank to the same shape.

    Returns:
        [E, C, D].
    """
    peers, here = parted.peers, parted.here
    places, width = x_ecd.shape[1:]
    if parted.slots is not None and parted.held is not None:
        x_ecd = _permuted(x_ecd, parted.held, parted.slots)
    x_recd: Tensor = _Even.apply(x_ecd.view(-1, here, places, width), peers)
    y_end = feed(x_recd.transpose(0, 1).reshape(here, -1, width))
    y_recd = y_end.view(here, -1, places, width).transpose(0, 1).contiguous()
    back: Tensor = _Even.apply(y_recd, peers)
    y_ecd = back.view(-1, places, width)
    if parted.slots is not None and parted.held is not None:
        y_ecd = _permuted(y_ecd, parted.slots, parted.held)
    return y_ecd
