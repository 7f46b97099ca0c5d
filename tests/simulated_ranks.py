"""Ranks as threads of one process, which exchange through a list."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor


class SimulatedPeers:
    """One of several ranks; a `lumina.ops.moe.parted.Peers` without processes.

    Args:
        rank: its place.
        size: of all.
        table: what ranks have laid out for each other, by rank; of all of them.
        meets: where they wait for each other; of all of them.
    """

    def __init__(
        self, rank: int, size: int, table: list[Any], meets: threading.Barrier
    ) -> None:
        self.rank, self.size = rank, size
        self.exchanges = 0
        self._table, self._meets = table, meets

    def _from_each(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """What every rank has laid out for this one."""
        self.exchanges += 1
        self._table[self.rank] = [part.detach().clone() for part in parts]
        self._meets.wait()
        found = [laid_out[self.rank] for laid_out in self._table]
        self._meets.wait()
        return found

    def exchange(self, tensor: Tensor) -> Tensor:
        """As of `Peers`."""
        return torch.stack(self._from_each(list(tensor)))

    def exchange_rows(
        self, rows: Tensor, sent: Sequence[int], received: Sequence[int]
    ) -> Tensor:
        """As of `Peers`; refuses rows that were not announced."""
        found = self._from_each(rows.split(list(sent)))
        assert [len(part) for part in found] == list(received)
        return torch.cat(found)


def on_ranks(size: int, work: Callable[[SimulatedPeers], Any]) -> list[Any]:
    """What `work` returns on each of several ranks at once."""
    table: list[Any] = [None] * size
    meets = threading.Barrier(size)

    def one(rank: int) -> Any:
        try:
            return work(SimulatedPeers(rank, size, table, meets))
        except BaseException:
            meets.abort()  # the others would wait for ever
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(one, rank) for rank in range(size)]
    failures = [f.exception() for f in futures if f.exception() is not None]
    real = [f for f in failures if not isinstance(f, threading.BrokenBarrierError)]
    if failures:
        raise (real or failures)[0]
    return [future.result() for future in futures]
