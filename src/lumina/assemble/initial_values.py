"""Initial weights, drawn on several threads while the program is being built.

Each tensor has a random stream of its own, so the order in which they are drawn does
not matter. One thread draws some 150 million numbers a second: ten seconds for a model
of 1.5 billion parameters, during which most of the machine would be idle.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from lumina.host_memory import host_memory_bytes
from lumina.model.declared import declared
from lumina.model.initial import initial_value
from lumina.model.network import Network

AHEAD_BYTES = 4 * 2**30
"""Values drawn but not yet taken: at most this, or one tensor; more where the host's
memory is large."""

AHEAD_SHARE = 16
"""They may be this part of the host's memory, too. A large head is the last tensor and
is drawn by one thread: it has to begin long before it is taken."""

MOST_THREADS = 16


class InitialValues:
    """The initial value of each tensor of a network, in a fixed order.

    Args:
        network: on the meta device.
        names: its tensors, in the order in which they are taken.
        seed: decides the values, together with the names.
        processes: of this machine that draw at the same time.
        factors: what the values of some tensors are multiplied by.
    """

    def __init__(
        self,
        network: Network,
        names: Sequence[str],
        seed: int,
        processes: int = 1,
        factors: Mapping[str, float] | None = None,
    ) -> None:
        self._factors = dict(factors or {})
        self._seed = seed
        self._declared = declared(network.spec)
        self._waiting = deque(self._declared[name] for name in names)
        self._drawn: deque[tuple[str, int, Future[Tensor]]] = deque()
        self._pool: ThreadPoolExecutor | None = None
        self._ahead = max(AHEAD_BYTES, host_memory_bytes() // AHEAD_SHARE // processes)
        if all(one.first.name != "made" for one in self._waiting):
            threads = max(1, min(MOST_THREADS, (os.cpu_count() or 1) // processes))
            self._pool = ThreadPoolExecutor(threads, "lumina-initial")
            self._draw_ahead()

    def take(self, name: str) -> Tensor:
        """The value of the next tensor, which has to be `name`: float32, on the CPU."""
        value, factor = self._next(name), self._factors.get(name)
        return value if factor is None else value * factor

    def _next(self, name: str) -> Tensor:
        if self._pool is None:
            return initial_value(self._declared[name], self._seed)
        drawn, _, future = self._drawn.popleft()
        assert drawn == name, f"{drawn} comes before {name}"
        self._draw_ahead()
        value = future.result()
        if not self._drawn:
            self._pool.shutdown()
        return value

    def _draw_ahead(self) -> None:
        """Start as many as there is room for, and one in any case."""
        assert self._pool is not None
        under_way = sum(size for _, size, _ in self._drawn)
        while self._waiting:
            size = 4 * self._waiting[0].size
            if self._drawn and under_way + size > self._ahead:
                return
            one = self._waiting.popleft()
            under_way += size
            future = self._pool.submit(initial_value, one, self._seed)
            self._drawn.append((one.name, size, future))
