"""How the ranks of a ring pass tensors on, and who runs what they compute meanwhile.

What a rank of a ring does is a generator, which gives a `Send` when tensors are to
leave and a `Receive` when it needs those of the rank before. It knows no network: one
process may run the generators of all ranks in turn, as tests do.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Send(NamedTuple):
    """Begin to pass tensors to the next rank; it does not wait.

    Attributes:
        tensors: not to be changed until what comes in their place was received.
        shapes: of what the rank before sends in the same place, of the same types.
    """

    tensors: tuple[Tensor, ...]
    shapes: tuple[torch.Size, ...]


class Receive(NamedTuple):
    """Wait for what the rank before sends.

    Attributes:
        ticket: what a `Send` was answered with.
    """

    ticket: Any


Steps = Generator[Send | Receive, Any, T]
"""What a rank does. A `Send` is answered with a ticket, a `Receive` with tensors."""


class Link(Protocol):
    """A rank's connection with the next rank and with the one before."""

    def send(self, what: Send) -> Any:
        """Begin to exchange; a ticket."""

    def receive(self, ticket: Any) -> tuple[Tensor, ...]:
        """What the rank before has sent in the place of what the ticket is for."""


def carry_out(steps: Steps[T], link: Link) -> T:
    """Do what a rank does, over its link."""
    answer: Any = None
    while True:
        try:
            asked = steps.send(answer)
        except StopIteration as end:
            found: T = end.value
            return found
        if isinstance(asked, Send):
            answer = link.send(asked)
        else:
            answer = link.receive(asked.ticket)


@dataclass(frozen=True)
class Alone:
    """The link of a ring of one rank, which passes nothing."""

    def send(self, what: Send) -> Any:
        """Never asked for."""
        raise RuntimeError("a ring of one rank sends nothing")

    def receive(self, ticket: Any) -> tuple[Tensor, ...]:
        """Never asked for."""
        raise RuntimeError("a ring of one rank receives nothing")
