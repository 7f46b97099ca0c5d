"""What a device does at most, measured: matrix products and copies."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

SIDE = {"cuda": 8192, "cpu": 1024}
"""Rows and columns of the matrices that are multiplied."""

COPIED = {"cuda": 2**30, "cpu": 2**27}
"""Bytes that are copied: more than any cache holds."""


@dataclass(frozen=True)
class Ceilings:
    """The most that a device was seen to do.

    Attributes:
        flops: operations a second of a large square product.
        bandwidth: bytes a second, read and written together, of a large copy.
        dtype: of the product.
        side: of its matrices.
        copied: bytes of the copy.
    """

    flops: float
    bandwidth: float
    dtype: str
    side: int
    copied: int

    def floor(self, operations: float, moved: float) -> float:
        """Seconds that this many operations and bytes take at least."""
        return max(operations / self.flops, moved / self.bandwidth)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def measure_ceilings(device: str, dtype: str) -> Ceilings:
    """Measure both, for about half a second each.

    Args:
        device: "cuda", "cpu" or "mps".
        dtype: "float32", "bfloat16" or "float16", of the product.
    """
    side = SIDE.get(device, SIDE["cpu"])
    size = COPIED.get(device, COPIED["cpu"])
    a, b = (
        torch.randn(side, side, device=device).to(getattr(torch, dtype))
        for _ in range(2)
    )
    product = min(times_of(lambda: a @ b, device))
    return Ceilings(2 * side**3 / product, bandwidth_of(device), dtype, side, size)


def bandwidth_of(device: str) -> float:
    """Bytes a second, read and written together, of a large copy."""
    size = COPIED.get(device, COPIED["cpu"])
    source = torch.empty(size, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    return 2 * size / min(times_of(lambda: target.copy_(source), device))


def times_of(
    run: Callable[[], Any], device: str, seconds: float = 0.3, least: int = 5
) -> list[float]:
    """Seconds of each of several calls, after one that does not count."""
    run()
    found: list[float] = []
    spent = time.perf_counter()
    while len(found) < least or time.perf_counter() - spent < seconds:
        found.append(time_of(run, device))
    return found


def time_of(run: Callable[[], Any], device: str) -> float:
    """Seconds of one call, by the device's clock on CUDA."""
    if device == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return float(begin.elapsed_time(end)) / 1000
    began = time.perf_counter()
    run()
    if device == "mps":
        torch.mps.synchronize()
    return time.perf_counter() - began


def interleaved(
    runs: dict[str, Callable[[], Any]], device: str, rounds: int
) -> dict[str, float]:
    """The median seconds of several ways, which take turns in alternating order."""
    for run in runs.values():
        run()
    found: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds):
        names = list(runs) if turn % 2 == 0 else list(reversed(runs))
        for name in names:
            found[name].append(time_of(runs[name], device))
    return {name: statistics.median(values) for name, values in found.items()}
