"""Whole weights, of which each rank trains some rows: gradients there, weights back.

Stage 1 of ZeRO (Rajbhandari et al., 2020, arXiv:1910.02054). A gradient is summed where
its rows are trained (reduce-scatter), and the new rows go to everyone (all-gather):
together as much as an all-reduce sends. Only a run that shares the work so imports this
module: DTensor takes seconds to load.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

from lumina.parallel.mesh import RankGroup
from lumina.parallel.sharding import device_mesh
from lumina.parallel.way import IN_FLIGHT, Place

# torch 2.13 renames both; 2.11 has only the earlier names.
_reduce_scatter: Any = getattr(dist, "reduce_scatter_single", None)
_reduce_scatter = _reduce_scatter or dist.reduce_scatter_tensor
_all_gather: Any = getattr(dist, "all_gather_single", None)
_all_gather = _all_gather or dist.all_gather_into_tensor


@dataclass
class Part:
    """The rows of a parameter that this rank trains.

    Attributes:
        parameter: whole; the network computes with it.
        rows: a DTensor parameter whose local tensor is a view of this rank's rows.
        gradient: float32, the mean over the ranks of the gradient of these rows.
        total: float32 of the parameter's shape, where the gradients of several
            backward passes add up and the parameter's own type is narrower.
        size: elements of the largest rank's rows, which all ranks' are filled up to.
    """

    parameter: nn.Parameter
    rows: nn.Parameter
    gradient: Tensor
    total: Tensor | None
    size: int

    @property
    def here(self) -> Tensor:
        """This rank's rows of the parameter, flat."""
        local: Tensor = self.rows.data.to_local()  # type: ignore[attr-defined]
        return local.view(-1)

    def summed(self) -> Tensor | None:
        """The gradient of this rank's tokens; None where there is none."""
        return self.parameter.grad if self.total is None else self.total

    def forget(self) -> None:
        """Release the gradient of this rank's tokens."""
        self.parameter.grad = None
        if self.total is not None:
            self.total.zero_()


@dataclass
class _Bucket:
    """Parts that travel in one message, one after the other."""

    parts: list[Part] = field(default_factory=list)
    waiting: int = 0

    @property
    def size(self) -> int:
        """Elements that each rank has of it."""
        return sum(part.size for part in self.parts)


class Exchange:
    """Sends gradients to the ranks that train with them, and weights to all ranks.

    Every rank has the same parts in the same order and sends the same messages.

    Args:
        place: the network, its ranks and how large messages are.
    """

    def __init__(self, place: Place) -> None:
        self._ranks: RankGroup = place.mesh.tokens
        self._mesh = device_mesh(place)
        self._messages = place.messages
        self.parts: list[Part] = []
        self._reduced: list[_Bucket] = []
        self._gathered: list[_Bucket] = []
        self._of: dict[nn.Parameter, _Bucket] = {}
        self._flights: deque[tuple[dist.Work, Tensor, Tensor, _Bucket]] = deque()
        self._sent: int | None = None
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def add(self, parameter: nn.Parameter, *, adds_up: bool) -> Part:
        """Train this rank's rows of a parameter, which has its value and its type.

        Args:
            parameter: of the network.
            adds_up: the gradients of several backward passes add up.
        """
        shape, ranks = parameter.shape, self._ranks
        each = -(-shape[0] // ranks.size)  # as torch.chunk and FSDP2 divide them
        first = min(ranks.rank * each, shape[0])
        view = parameter.data[first : min(first + each, shape[0])]
        rows = DTensor.from_local(
            view,
            self._mesh,
            [Shard(0)],
            run_check=False,
            shape=shape,
            stride=parameter.stride(),
        )
        narrow = parameter.dtype != torch.float32
        part = Part(
            parameter,
            nn.Parameter(rows, requires_grad=False),
            torch.zeros_like(view, dtype=torch.float32),
            torch.zeros_like(parameter.data, dtype=torch.float32)
            if adds_up and narrow
            else None,
            each * (parameter[0].numel() if shape[0] else 0),
        )
        self.parts.append(part)
        return part

    def begin(self) -> None:
        """All parts are there: form the messages, and notice gradients."""
        messages = self._messages
        # Backward passes reach the last parameters first.
        self._reduced = _buckets(reversed(self.parts), messages.reduced)
        for dtype in dict.fromkeys(part.parameter.dtype for part in self.parts):
            alike = [part for part in self.parts if part.parameter.dtype == dtype]
            self._gathered += _buckets(alike, messages.gathered)
        for bucket in self._reduced:
            for part in bucket.parts:
                self._of[part.parameter] = bucket
        self._hooks = [
            part.parameter.register_post_accumulate_grad_hook(_noticed(self, number))
            for number, part in enumerate(self.parts)
        ]

    def expect(self, last: bool) -> None:
        """A forward and backward begin.

        Args:
            last: gradients are complete after it, and are sent as they become so.
        """
        self._sent = 0 if last else None
        for bucket in self._reduced:
            bucket.waiting = len(bucket.parts)

    def notice(self, part: Part) -> None:
        """A backward pass has the gradient of a parameter."""
        if part.total is not None:
            assert part.parameter.grad is not None
            part.total.add_(part.parameter.grad)
            part.parameter.grad = None
        if self._sent is None:
            return
        bucket = self._of[part.parameter]
        bucket.waiting -= 1
        if bucket.waiting < 0:
            raise RuntimeError(
                "a parameter got a second gradient in one backward pass, when the "
                "first one may be on its way to another rank"
            )
        if self._messages.overlap:
            # In one order on all ranks, whatever order their gradients come in.
            while self._sent < len(self._reduced) and not self._next.waiting:
                self._send(self._next)

    @property
    def _next(self) -> _Bucket:
        assert self._sent is not None
        return self._reduced[self._sent]

    def finish(self) -> None:
        """The last backward is over: after this, gradients of all rows are there.

        A parameter that no token of this rank has used adds zero.
        """
        if self._sent is None:
            return
        while self._sent < len(self._reduced):
            self._send(self._next)
        while self._flights:
            self._land()
        self._sent = None

    def forget(self) -> None:
        """Release what a step that broke off has left; nothing is sent any more."""
        self._flights.clear()
        self._sent = None
        for part in self.parts:
            part.forget()
            part.gradient.zero_()

    def close(self) -> None:
        """Notice no more gradients, and hold nothing."""
        for hook in self._hooks:
            hook.remove()
        self._flights.clear()
        for held in (self._hooks, self.parts, self._reduced, self._gathered):
            held.clear()
        self._of.clear()

    @torch.no_grad()
    def _send(self, bucket: _Bucket) -> None:
        """Reduce a bucket; gradients of this rank's tokens are let go."""
        assert self._sent is not None
        self._sent += 1
        size, ranks = bucket.size, self._ranks.size
        device = bucket.parts[0].parameter.device
        mine = torch.empty(ranks, size, dtype=torch.float32, device=device)
        at = 0
        for part in bucket.parts:
            _spread(part.summed(), mine[:, at : at + part.size])
            part.forget()
            at += part.size
        found = mine.new_empty(size)
        work = _reduce_scatter(
            found, mine.view(-1), group=self._ranks.group, async_op=True
        )
        assert work is not None
        self._flights.append((work, mine, found, bucket))
        # Messages that wait hold memory: with these, as much as gradients took.
        while len(self._flights) > (IN_FLIGHT if self._messages.overlap else 0):
            self._land()

    @torch.no_grad()
    def _land(self) -> None:
        """Take in the oldest message: on a GPU, without the host waiting for it."""
        work, _, found, bucket = self._flights.popleft()
        work.wait()
        found.div_(self._ranks.size)
        at = 0
        for part in bucket.parts:
            gradient = part.gradient.view(-1)
            gradient.copy_(found[at : at + len(gradient)])
            at += part.size

    @torch.no_grad()
    def publish(self) -> None:
        """Give every rank the rows that the others have changed."""
        ranks = self._ranks
        flights: deque[tuple[dist.Work, Tensor, Tensor, _Bucket]] = deque()

        def land() -> None:
            work, _, found, bucket = flights.popleft()
            work.wait()
            at = 0
            for part in bucket.parts:
                _collect(found[:, at : at + part.size], part.parameter.data)
                at += part.size

        for bucket in self._gathered:
            first = bucket.parts[0].parameter
            mine = first.data.new_zeros(bucket.size)
            at = 0
            for part in bucket.parts:
                here = part.here
                mine[at : at + len(here)].copy_(here)
                at += part.size
            found = mine.new_empty(ranks.size, bucket.size)
            work = _all_gather(found.view(-1), mine, group=ranks.group, async_op=True)
            assert work is not None
            flights.append((work, mine, found, bucket))
            while len(flights) > (IN_FLIGHT - 1 if self._messages.overlap else 0):
                land()
        while flights:
            land()


def _noticed(exchange: Exchange, number: int) -> Callable[[Tensor], None]:
    """A hook that tells an exchange of the gradient of one of its parts."""
    # A parameter keeps its hooks where Python's collector does not look: a hook that
    # kept the parameter would keep all of the run's tensors.
    held = weakref.ref(exchange)

    def notice(parameter: Tensor) -> None:
        if (found := held()) is not None:
            found.notice(found.parts[number])

    return notice


def _buckets(parts: Iterable[Part], most: int) -> list[_Bucket]:
    """Parts in their order, as many together as a message holds.

    Args:
        parts: them.
        most: elements of all ranks; a larger parameter travels by itself.
    """
    found: list[_Bucket] = []
    held = 0
    for part in parts:
        size = part.parameter.numel()
        if not found or held + size > most:
            found.append(_Bucket())
            held = 0
        found[-1].parts.append(part)
        held += size
    return found


def _spread(gradient: Tensor | None, places: Tensor) -> None:
    """Divide a gradient by rows.

    Args:
        gradient: of a whole parameter; None is all zeros.
        places: [R, size], a row for each rank, filled up with zeros.
    """
    if gradient is None:
        places.zero_()
        return
    flat = gradient.reshape(-1)
    if len(flat) == places.numel():
        places.copy_(flat.view(places.shape))
        return
    for place, part in zip(places, _by_rank(flat, places), strict=True):
        place[: len(part)].copy_(part)
        place[len(part) :].zero_()


def _collect(places: Tensor, weights: Tensor) -> None:
    """The inverse of `_spread`, into whole weights."""
    flat = weights.view(-1)
    if len(flat) == places.numel():
        flat.view(places.shape).copy_(places)
        return
    for place, part in zip(places, _by_rank(flat, places), strict=True):
        part.copy_(place[: len(part)])


def _by_rank(flat: Tensor, places: Tensor) -> list[Tensor]:
    """Parts of flat rows for each rank; those of the last ranks may be empty."""
    ranks, size = places.shape
    return [flat[rank * size : (rank + 1) * size] for rank in range(ranks)]
