"""Initial weights, drawn on several threads while the program is being built.

Each tensor has a random stream of its own, so the order in which they are drawn does
not matter. One thread draws some 150 million numbers a second: ten seconds for a model
of 1.5 billion parameters, during which most of the machine would be idle.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from lumina.model.initial import initial_value
from lumina.model.network import Network

AHEAD_BYTES = 4 * 2**30
"""Values drawn but not yet taken: at most this, or one tensor."""

MOST_THREADS = 16


class InitialValues:
    """The initial value of each tensor of a network, in a fixed order.

    Args:
        network: on the meta device.
        names: its tensors, in the order in which they are taken.
        seed: decides the values, together with the names.
        processes: of this machine that draw at the same time.
    """

    def __init__(
        self, network: Network, names: Sequence[str], seed: int, processes: int = 1
    ) -> None:
        self._network = network
        self._seed = seed
        shapes = network.state_dict(keep_vars=True)
        self._waiting = deque((name, tuple(shapes[name].shape)) for name in names)
        self._drawn: deque[tuple[str, int, Future[Tensor]]] = deque()
        self._pool: ThreadPoolExecutor | None = None
        if network.spec.parts is None:  # a registered part draws its values itself
            threads = max(1, min(MOST_THREADS, (os.cpu_count() or 1) // processes))
            self._pool = ThreadPoolExecutor(threads, "lumina-initial")
            self._draw_ahead()

    def take(self, name: str) -> Tensor:
        """The value of the next tensor, which has to be `name`: float32, on the CPU."""
        if self._pool is None:
            return self._network.initial_value(name, self._seed)
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
            name, shape = self._waiting[0]
            size = 4
            for length in shape:
                size *= length
            if self._drawn and under_way + size > AHEAD_BYTES:
                return
            self._waiting.popleft()
            under_way += size
            future = self._pool.submit(
                initial_value, name, shape, self._network.spec, self._seed
            )
            self._drawn.append((name, size, future))
