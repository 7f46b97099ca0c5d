"""The parts of an estimate of memory, as people read them."""

from __future__ import annotations

from collections.abc import Mapping

from lumina.quantities import byte_size


def components(memory: Mapping[str, int]) -> dict[str, int]:
    """The components of an estimate that are not empty, without its sums.

    Plans recorded by earlier versions have one sum, `total`.
    """
    sums = ("bound", "expected", "total")
    return {name: size for name, size in memory.items() if size and name not in sums}


def at_most(memory: Mapping[str, int]) -> int:
    """The bound of an estimate; 0 where a Plan has none."""
    return memory.get("bound", memory.get("total", 0))


def listed(parts: Mapping[str, int], most: int = 5) -> str:
    """The largest components of an estimate, in words."""
    largest = sorted(
        ((size, name) for name, size in components(parts).items()), reverse=True
    )
    return ", ".join(
        f"{name.replace('_', ' ')} {byte_size(size)}" for size, name in largest[:most]
    )
