"""A rank's link with its neighbours in a ring of ranks."""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor

from lumina.ops.attention.ring.link import Send
from lumina.parallel.mesh import RankGroup


@dataclass(frozen=True)
class Exchanged:
    """Tensors on their way.

    Attributes:
        works: what is waited for.
        sent: kept until they have left.
        received: filled when the works are done.
    """

    works: list[dist.Work]
    sent: tuple[Tensor, ...]
    received: tuple[Tensor, ...]


class RingLink:
    """Passes tensors to the next rank of a group and takes those of the one before.

    Every rank sends and receives in one call, so that no order of theirs can make two
    wait for each other.

    Args:
        group: at least two ranks, in the order of the ring.
    """

    def __init__(self, group: RankGroup) -> None:
        self._group = group.group
        self._next = group.ranks[(group.rank + 1) % group.size]
        self._before = group.ranks[(group.rank - 1) % group.size]

    def send(self, what: Send) -> Exchanged:
        """Begin an exchange with both neighbours."""
        sent = tuple(tensor.contiguous() for tensor in what.tensors)
        received = tuple(
            tensor.new_empty(shape)
            for tensor, shape in zip(sent, what.shapes, strict=True)
        )
        group = self._group
        asked = [dist.P2POp(dist.isend, x, self._next, group) for x in sent]
        asked += [dist.P2POp(dist.irecv, x, self._before, group) for x in received]
        return Exchanged(dist.batch_isend_irecv(asked), sent, received)

    def receive(self, ticket: Exchanged) -> tuple[Tensor, ...]:
        """What the rank before has sent; this rank's tensors have left as well."""
        for work in ticket.works:
            work.wait()
        return ticket.received
