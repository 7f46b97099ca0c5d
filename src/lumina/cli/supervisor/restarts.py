"""How often and how soon a training is started again."""

from __future__ import annotations

LONGEST_WAIT = 300.0
"""Seconds before a restart, at most."""


class Restarts:
    """Counts restarts that brought nothing, and lengthens the wait before the next.

    A restart has brought something when a step was trained that no attempt before it
    had reached. Steps that are repeated after a checkpoint do not count.

    Args:
        limit: restarts in a row that may bring nothing.
        first_wait: seconds before the first one; each further one waits twice as long.

    Attributes:
        made: restarts in all.
        in_vain: restarts in a row that have brought nothing yet, the present one too.
    """

    def __init__(self, limit: int, first_wait: float) -> None:
        self._limit = limit
        self._first_wait = first_wait
        self._furthest = -1
        self.made = 0
        self.in_vain = 0

    def after(self, step: int) -> float | None:
        """Seconds to wait before the next restart; None: there is none.

        Args:
            step: completed steps of the run when it failed; -1: none had begun.
        """
        if step > self._furthest:
            # The first attempt has nothing before it.
            self.in_vain = 0
            self._furthest = step
        if self.in_vain >= self._limit:
            return None
        wait = self._first_wait * 2.0**self.in_vain
        self.in_vain += 1
        self.made += 1
        return min(wait, LONGEST_WAIT)
