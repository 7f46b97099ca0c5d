"""Bytes that pass between a device and what lies beside it, in one step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Crossing:
    """What one process brings to its device and takes from it in a step.

    Attributes:
        brought: bytes to the device while forwards and backwards compute.
        taken: bytes from it in that time.
        brought_after: bytes to it in the optimizer's step, when nothing else computes.
        taken_after: bytes from it in that time.
    """

    brought: float = 0.0
    taken: float = 0.0
    brought_after: float = 0.0
    taken_after: float = 0.0

    def __add__(self, other: Crossing) -> Crossing:
        return Crossing(
            self.brought + other.brought,
            self.taken + other.taken,
            self.brought_after + other.brought_after,
            self.taken_after + other.taken_after,
        )

    @property
    def whole(self) -> float:
        """All bytes, both ways."""
        return self.brought + self.taken + self.brought_after + self.taken_after
