"""The tile of the kernel, where a run names one."""

from __future__ import annotations

from collections.abc import Mapping

CHOSEN: dict[str, int] = {}
"""queries, keys, warps and stages; what is missing is the kernel's own."""


def use(named: Mapping[str, int]) -> None:
    """Let the kernel take these from now on."""
    CHOSEN.clear()
    CHOSEN.update(named)
