"""What stays visible beyond a sliding window. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Beyond:
    """Which keys stay visible beyond a sliding window.

    Attributes:
        sinks: the first tokens of every document (attention sinks, Xiao et al., 2023,
            arXiv:2309.17453).
        dilation: keys at every multiple of this distance (the strided pattern of Child
            et al., 2019, arXiv:1904.10509); 0: none.
    """

    sinks: int = 0
    dilation: int = 0

    def __bool__(self) -> bool:
        return bool(self.sinks or self.dilation)


NOTHING = Beyond()
"""A window that hides every key before it."""
