"""Times of steps, and how much they spread."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lumina.measure.bench.comparison import ENOUGH, interval


def timed(
    launch: Callable[[], Any], steps: int, device: str, stopped: Callable[[], bool]
) -> list[float]:
    """Seconds of each step, from the end of the step before to its own end.

    On CUDA by events that the device stamps, so that the host may run ahead as it does
    in a training; elsewhere by the host's clock.

    Args:
        launch: takes one step.
        steps: how many.
        device: kind of device that they run on.
        stopped: asked before each step; once true, those that were taken are given.
    """
    marks: list[Any] = [_mark(device, wait=True)]
    for _ in range(steps):
        if stopped():
            break
        launch()
        marks.append(_mark(device))
    if device == "cuda":
        torch.cuda.synchronize()
        return [a.elapsed_time(b) / 1000 for a, b in itertools.pairwise(marks)]
    return [b - a for a, b in itertools.pairwise(marks)]


def _mark(device: str, wait: bool = False) -> Any:
    if device == "cuda":
        if wait:
            torch.cuda.synchronize()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
    if device == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def spread(seconds: Sequence[float]) -> dict[str, Any]:
    """Median, quartiles and extremes of some times, and the median's 95% interval.

    The interval is that of a moving-block bootstrap (Künsch, 1989) and None where
    there are too few times for one.
    """
    low, middle, high = np.quantile(seconds, (0.25, 0.5, 0.75))
    found: dict[str, Any] = {
        "median": float(middle),
        "quartiles": [float(low), float(high)],
        "least": min(seconds),
        "most": max(seconds),
        "mean": statistics.fmean(seconds),
        "interval": None,
        "steps": len(seconds),
    }
    if len(seconds) >= ENOUGH:
        found["interval"] = list(interval(np.array(seconds)))
    return found


_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)
"""Student's t for a two-sided 95% interval, by degrees of freedom from 1."""


def ratio_interval(ratios: Sequence[float]) -> tuple[float, float, float] | None:
    """The geometric mean of ratios with its 95% interval, by Student's t of their logs.

    Args:
        ratios: one of each block, all above 0.

    Returns:
        (mean, low, high), or None for fewer than two blocks.
    """
    if len(ratios) < 2:
        return None
    logs = np.log(np.array(ratios))
    low, high = mean_interval(logs)
    return float(np.exp(logs.mean())), float(np.exp(low)), float(np.exp(high))


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95% interval of the mean of two values or more, by Student's t."""
    found = np.array(values)
    freedom = len(found) - 1
    factor = _T[freedom - 1] if freedom <= len(_T) else _T[-1]
    half = factor * float(found.std(ddof=1)) / len(found) ** 0.5
    middle = float(found.mean())
    return middle - half, middle + half


def memory(device: str) -> dict[str, Any]:
    """Most bytes so far: of the device, or of this process on a CPU."""
    if device == "cuda":
        return {
            "allocated": int(torch.cuda.max_memory_allocated()),
            "reserved": int(torch.cuda.max_memory_reserved()),
            "of": "the device",
        }
    most = _most_resident()
    return {"allocated": None, "reserved": most, "of": "the process"}


def _most_resident() -> int:
    """Most bytes that this program had in memory.

    Linux counts in `ru_maxrss` what the process that started this one had, too.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
