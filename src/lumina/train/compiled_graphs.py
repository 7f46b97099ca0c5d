"""How many graphs torch.compile has made in this process."""

from __future__ import annotations

import sys


class CompiledGraphs:
    """Counts the graphs from one question to the next.

    The compiler counts them itself; where it is not loaded there are none, and asking
    does not load it.
    """

    def __init__(self) -> None:
        self._before = _made()

    def since_last(self) -> int:
        """Graphs made since the last call; the compiler may begin to count anew."""
        now = _made()
        found, self._before = now - self._before, now
        return found if found >= 0 else now


def _made() -> int:
    dynamo = sys.modules.get("torch._dynamo.utils")
    return int(dynamo.counters["stats"]["unique_graphs"]) if dynamo else 0
