"""Every allocation of a step: what is there when most is, and who made it.

No snapshot of PyTorch's is written: its format is a pickle.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ENTRIES = 1_000_000
"""Allocations of a GPU that are remembered at most."""


@dataclass(frozen=True)
class Allocation:
    """Memory that one place in the code made.

    Attributes:
        where: the file and line on a GPU, the operation on a CPU.
        size: bytes that are there at the peak.
        count: allocations.
    """

    where: str
    size: int
    count: int


def tracked(
    step: Callable[[], object], wait: Callable[[], None], *, on_gpu: bool
) -> tuple[int, list[Allocation]]:
    """(bytes that a step adds at its peak, what these are, the largest first).

    Args:
        step: launches a step.
        wait: until the device has come to its end.
        on_gpu: whether its tensors are on a CUDA device.
    """
    events = _on_gpu(step, wait) if on_gpu else _on_cpu(step)
    return at_peak(events)


def at_peak(events: Iterable[tuple[int, int, str]]) -> tuple[int, list[Allocation]]:
    """What is there when most is.

    Args:
        events: (address, bytes, where), bytes below zero for what is given back, in
            the order of time. What was there before and is given back counts as
            nothing.

    Returns:
        The bytes, and what they consist of, the largest first.
    """
    live: dict[int, tuple[int, str]] = {}
    now = peak = 0
    highest: dict[int, tuple[int, str]] = {}
    rising = False
    for address, size, where in events:
        if size > 0:
            live[address] = (size, where)
            now += size
            rising = now > peak or rising
            peak = max(peak, now)
            continue
        if rising and now == peak:
            highest = dict(live)
            rising = False
        freed = live.pop(address, None)
        now -= freed[0] if freed else 0
    if rising and now == peak:
        highest = dict(live)
    return peak, summed(highest.values())


def summed(live: Iterable[tuple[int, str]]) -> list[Allocation]:
    """Bytes and numbers by place, the largest first."""
    sizes: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for size, where in live:
        sizes[where] += size
        counts[where] += 1
    return [
        Allocation(where, size, counts[where]) for where, size in sizes.most_common()
    ]


def _on_gpu(
    step: Callable[[], object], wait: Callable[[], None]
) -> list[tuple[int, int, str]]:
    """The allocator's own history of a step."""
    memory = torch.cuda.memory
    memory._record_memory_history(max_entries=ENTRIES, stacks="python")
    try:
        step()
        wait()
        snapshot = memory._snapshot()
    finally:
        memory._record_memory_history(enabled=None)
    signs = {"alloc": 1, "free_completed": -1}
    return [
        (
            entry["addr"],
            signs[entry["action"]] * entry["size"],
            _place(entry.get("frames", ())),
        )
        for device in snapshot["device_traces"]
        for entry in device
        if entry["action"] in signs
    ]


def _place(frames: Sequence[Mapping[str, Any]]) -> str:
    """The innermost line of Lumina's own, else of any program but PyTorch."""
    paths = [(Path(frame["filename"]), frame) for frame in frames]
    for wanted in ("lumina", None):
        for path, frame in paths:
            own = wanted in path.parts if wanted else "torch" not in path.parts
            if own and path.suffix == ".py":
                return f"{'/'.join(path.parts[-2:])}:{frame['line']} {frame['name']}"
    return "the backward pass, or PyTorch itself"


def _on_cpu(step: Callable[[], object]) -> list[tuple[int, int, str]]:
    """The profiler's record of a step, each allocation under its operation."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=kinds, profile_memory=True) as profiler:
        step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    return cpu_events(events)


def cpu_events(events: Sequence[Mapping[str, Any]]) -> list[tuple[int, int, str]]:
    """Allocations of a trace, under the innermost operation that was running.

    Args:
        events: `traceEvents` of the profiler's JSON, times in microseconds.
    """
    spans = sorted(
        (event for event in events if event.get("cat") == "cpu_op"),
        key=lambda event: (event["tid"], event["ts"], -event["dur"]),
    )
    changes = sorted(
        (event for event in events if event.get("name") == "[memory]"),
        key=lambda event: event["ts"],
    )
    by_thread: dict[Any, list[Mapping[str, Any]]] = {}
    for span in spans:
        by_thread.setdefault(span["tid"], []).append(span)
    running: dict[Any, tuple[int, list[Mapping[str, Any]]]] = {}
    found = []
    for change in changes:
        thread = change["tid"]
        index, stack = running.get(thread, (0, []))
        own = by_thread.get(thread, [])
        while index < len(own) and own[index]["ts"] <= change["ts"]:
            stack.append(own[index])
            index += 1
        while stack and stack[-1]["ts"] + stack[-1]["dur"] < change["ts"]:
            stack.pop()
        running[thread] = (index, stack)
        where = stack[-1]["name"] if stack else "outside of operations"
        arguments = change["args"]
        found.append((int(arguments["Addr"]), int(arguments["Bytes"]), where))
    return found
