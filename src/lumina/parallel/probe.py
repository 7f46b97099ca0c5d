"""How fast each rank computes and sends, measured by a little work of its own.

Training itself hides which rank is slow: every exchange takes as long as the slowest
takes. So each rank times a product that is the same everywhere, and what it sends to
its neighbour, while nothing else is under way.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from lumina.parallel.mesh import RankGroup

WORDS = 64 * 1024
"""float32 numbers that are sent: 256 KiB."""

WIDTH = 256
"""Of the matrices that are multiplied."""

TRIES = 3
"""The product is computed this often, and the fastest time counts: other work on the
machine makes a product slower and never faster."""


@dataclass(frozen=True)
class Probed:
    """What this rank has measured, in seconds.

    Attributes:
        product: to multiply two small matrices.
        link: to send 256 KiB to the next rank and hear that they arrived.
        exchange: to add 256 KiB over all ranks.
    """

    product: float
    link: float
    exchange: float


def probe(group: RankGroup, device: torch.device) -> Probed:
    """Measure; all ranks of the group call it together.

    Args:
        group: at least two ranks.
        device: where this rank computes.
    """
    product = _product(device)
    group.any_(False)  # all begin together
    link = _link(group, device)
    group.any_(False)
    numbers = torch.zeros(WORDS, device=device)
    began = _now(device)
    group.sum_(numbers)
    return Probed(product, link, _now(device) - began)


def _now(device: torch.device) -> float:
    """The time at which the device has done everything that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _product(device: torch.device) -> float:
    """The fastest of some small products."""
    matrix = torch.ones(WIDTH, WIDTH, device=device)
    best = float("inf")
    for _ in range(TRIES):
        began = _now(device)
        matrix @ matrix
        best = min(best, _now(device) - began)
    return best


def _link(group: RankGroup, device: torch.device) -> float:
    """Each rank in its turn sends to the next one, no rank doing two things at once.

    Even ranks send, then odd ones; the last of an odd number of ranks sends alone.
    """
    size, rank = group.size, group.rank
    message = torch.zeros(WORDS, device=device)
    word = torch.zeros(1, device=device)
    found = 0.0
    lone = size - 1 if size % 2 else -1
    for turn in range(3 if size % 2 else 2):
        if _turn(rank, lone) == turn:
            after = group.ranks[(rank + 1) % size]
            _send(word, after, group)  # what a connection needs at first is no part
            _receive(word, after, group)
            began = _now(device)
            _send(message, after, group)
            _receive(word, after, group)
            found = _now(device) - began
        elif _turn((rank - 1) % size, lone) == turn:
            before = group.ranks[(rank - 1) % size]
            _receive(word, before, group)
            _send(word, before, group)
            _receive(message, before, group)
            _send(word, before, group)
    return found


def _turn(rank: int, lone: int) -> int:
    """In which turn a rank sends."""
    return 2 if rank == lone else rank % 2


def _send(tensor: Tensor, to: int, group: RankGroup) -> None:
    dist.send(tensor, to, group=group.group)


def _receive(tensor: Tensor, source: int, group: RankGroup) -> None:
    dist.recv(tensor, source, group=group.group)
