"""What two ranks send each other in stage 1 of ZeRO: two threads of one process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lumina.parallel import exchange
from lumina.parallel.exchange import Exchange
from lumina.parallel.mesh import RankGroup
from lumina.parallel.way import IN_FLIGHT, Messages

RANKS, PASSES = 2, 3
SHAPES = [(6, 4), (5, 3), (1, 7), (9,)]
"""Rows that two ranks share evenly, unevenly, and that leave one with none."""


class Wire:
    """Messages between threads; each number is that of its rank's messages so far."""

    def __init__(self) -> None:
        self.here = threading.local()
        self.events: list[tuple[int, str]] = []
        self._messages: dict[Any, list[Any]] = {}
        self._arrived = threading.Condition()

    def collective(self, kind: str, arrive: Callable[..., None]) -> Any:
        def send(target: Any, source: Any, group: Any, async_op: bool) -> Any:
            assert async_op
            rank = self.here.rank
            number = sum(one == (rank, kind) for one in self.events)
            self.events.append((rank, kind))
            with self._arrived:
                messages = self._messages.setdefault((kind, number), [None] * RANKS)
                messages[rank] = source.clone()
                self._arrived.notify_all()

            def wait() -> None:
                with self._arrived:
                    full = self._arrived.wait_for(
                        lambda: all(one is not None for one in messages), timeout=60
                    )
                assert full, "a rank waits for one that has not sent"
                self.events.append((rank, "waited"))
                arrive(target, messages, rank)

            return SimpleNamespace(wait=wait)

        return send

    def on_each(self, work: Callable[[int], Any]) -> list[Any]:
        """What each rank's thread gives back."""

        def on(rank: int) -> Any:
            self.here.rank = rank
            return work(rank)

        with ThreadPoolExecutor(RANKS) as threads:
            return list(threads.map(on, range(RANKS)))


class Rows(torch.Tensor):
    """Stands for a DTensor: the local rows, with a way to ask for them."""

    def to_local(self) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    def summed(target: Any, messages: list[Any], rank: int) -> None:
        target.copy_((messages[0] + messages[1]).chunk(RANKS)[rank])

    def joined(target: Any, messages: list[Any], rank: int) -> None:
        target.copy_(torch.cat(messages))

    found = Wire()
    monkeypatch.setattr(exchange, "_reduce_scatter", found.collective("r", summed))
    monkeypatch.setattr(exchange, "_all_gather", found.collective("g", joined))
    monkeypatch.setattr(exchange, "device_mesh", lambda place: None)
    local = SimpleNamespace(from_local=lambda view, *_, **__: view.as_subclass(Rows))
    monkeypatch.setattr(exchange, "DTensor", local)
    return found


def made(
    rank: int, messages: Messages, dtype: torch.dtype
) -> tuple[Exchange, list[nn.Parameter]]:
    """An exchange of random weights, the same on all ranks."""
    draw = torch.Generator().manual_seed(1)
    weights = [nn.Parameter(torch.randn(s, generator=draw).to(dtype)) for s in SHAPES]
    mesh = SimpleNamespace(tokens=RankGroup(tuple(range(RANKS)), rank))
    place: Any = SimpleNamespace(mesh=mesh, messages=messages)
    found = Exchange(place)
    for one in weights:
        found.add(one, adds_up=True)
    found.begin()
    return found, weights


def rows_of(tensor: torch.Tensor, rank: int) -> torch.Tensor:
    """The rows that torch.chunk gives a rank; nothing where it has none."""
    each = -(-tensor.shape[0] // RANKS)
    return tensor[rank * each : (rank + 1) * each]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("messages", [Messages(20, 20), Messages(40, 1, overlap=False)])
def test_each_rank_gets_the_mean_of_its_rows_over_all_passes(
    wire: Wire, messages: Messages, dtype: torch.dtype
) -> None:
    """One parameter has no gradient on the second rank, which adds nothing."""
    factors = [
        [[torch.randn(s).to(dtype) for s in SHAPES] for _ in range(PASSES)]
        for _ in range(RANKS)
    ]

    def trained(rank: int) -> tuple[Exchange, list[nn.Parameter], int]:
        found, weights = made(rank, messages, dtype)
        before_end = 0
        for index in range(PASSES):
            found.expect(index == PASSES - 1)
            used = zip(weights, factors[rank][index], strict=True)
            sums = [(one * factor).sum() for one, factor in used]
            torch.stack(sums[: 4 - rank]).sum().backward()
            before_end = wire.events.count((rank, "r"))
            found.finish()
        return found, weights, before_end

    for rank, (found, weights, early) in enumerate(wire.on_each(trained)):
        assert early == (3 - 3 * rank) * messages.overlap
        for number, (part, weight) in enumerate(zip(found.parts, weights, strict=True)):
            of_ranks = range(RANKS if number < 3 else 1)
            total = sum(
                factors[r][index][number].float()
                for r in of_ranks
                for index in range(PASSES)
            )
            assert isinstance(total, torch.Tensor)
            torch.testing.assert_close(part.gradient, rows_of(total / RANKS, rank))
            assert weight.grad is None and (part.total is None or not part.total.any())
    sent = [wire.events.count((rank, "r")) for rank in range(RANKS)]
    assert sent == [3 if messages.reduced == 20 else 2] * RANKS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("messages", [Messages(20, 20), Messages(1, 999, False)])
def test_changed_rows_reach_every_rank(
    wire: Wire, messages: Messages, dtype: torch.dtype
) -> None:
    def published(rank: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        found, weights = made(rank, messages, dtype)
        before = [one.detach().clone() for one in weights]
        for part in found.parts:
            part.here.add_(rank + 1)
        found.publish()
        return before, [one.detach() for one in weights]

    for before, after in wire.on_each(published):
        for old, new in zip(before, after, strict=True):
            whole = [rows_of(old, rank) + (rank + 1) for rank in range(RANKS)]
            assert torch.equal(new, torch.cat(whole))


def test_no_more_messages_are_under_way_than_the_plan_counts(wire: Wire) -> None:
    def trained(rank: int) -> Exchange:
        found, weights = made(rank, Messages(1, 1), torch.float32)
        found.expect(True)
        torch.stack([one.sum() for one in weights]).sum().backward()
        found.finish()
        found.publish()
        return found

    wire.on_each(trained)
    under_way = most = 0
    for rank, what in wire.events:
        if rank == 0:
            under_way += -1 if what == "waited" else 1
            most = max(most, under_way)
    assert (most, under_way) == (IN_FLIGHT + 1, 0)


def test_a_broken_step_leaves_nothing_to_send(wire: Wire) -> None:
    wire.here.rank = 0
    found, weights = made(0, Messages(10**6, 10**6), torch.bfloat16)
    found.expect(True)
    weights[0].sum().backward()
    assert found.parts[0].total is not None and found.parts[0].total.any()
    found.forget()
    found.finish()
    assert not wire.events and not found.parts[0].total.any()


def test_a_closed_exchange_holds_and_notices_nothing(wire: Wire) -> None:
    wire.here.rank = 0
    found, weights = made(0, Messages(1, 1), torch.float32)
    found.expect(True)
    found.close()
    weights[0].sum().backward()
    assert weights[0].grad is not None and not wire.events and not found.parts
