"""The course of a figure over a whole run, in the memory of a few numbers."""

from __future__ import annotations

from typing import Any

PARTS = 16
"""Parts that the time since the first value is divided into, at most."""


class Sums:
    """Mean and error of the loss over stretches of steps, in little memory.

    There are at most `PARTS` sums of as many steps each. When there are more, each two
    neighbours become one; so the stretches grow with the run.

    Args:
        memory: of the check, which holds them.
    """

    def __init__(self, memory: dict[str, Any]) -> None:
        self.memory = memory
        self.parts: list[list[float]] = memory.setdefault("parts", [[0, 0.0, 0.0]])
        memory.setdefault("size", 1)

    def add(self, loss: float) -> bool:
        """Take in a loss; whether the number of parts has just doubled in time."""
        count, total, squares = self.parts[-1]
        self.parts[-1] = [count + 1, total + loss, squares + loss * loss]
        if count + 1 < self.memory["size"]:
            return False
        full = len(self.parts) == PARTS
        if full:
            pairs = zip(self.parts[::2], self.parts[1::2], strict=True)
            self.parts[:] = [
                [a + b for a, b in zip(one, two, strict=True)] for one, two in pairs
            ]
            self.memory["size"] *= 2
        self.parts.append([0, 0.0, 0.0])
        return full

    def over(self, begin: int, end: int) -> tuple[float, float, int]:
        """Mean, squared error of the mean and steps of some parts."""
        count = sum(int(part[0]) for part in self.parts[begin:end])
        height = sum(part[1] for part in self.parts[begin:end]) / count
        # About the mean of each part, so that a trend is no noise.
        rest = sum(p[2] - p[1] * p[1] / p[0] for p in self.parts[begin:end])
        return height, max(rest, 0.0) / count / max(count - (end - begin), 1), count
