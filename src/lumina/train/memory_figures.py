"""A row's figures of memory: what is used, by what, and how near the limit it is."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lumina.host_memory import host_memory_bytes

WINDOW = 100
"""Rows over which the growth of memory is taken."""

HORIZON = 100
"""Steps ahead for which the use of memory is projected."""

SAFE, FULL = 0.7, 1.0
"""Shares of the device's memory at which the risk of running out begins and ends."""

STATUS = Path("/proc/self/status")
"""What Linux says of this process; `own_bytes` reads it."""


class MemoryFigures:
    """What this process uses of its device's memory.

    On the CPU the memory in use is the process's resident size, and the share of its
    limit that of `own_bytes`: the pages of mapped files are no pressure.

    Args:
        device: "cuda" or "cpu".
        total: bytes that this process may use of the device; None: not known.
    """

    def __init__(self, device: str, total: int | None) -> None:
        self.device = device
        self.total = total
        self._used: deque[tuple[int, float]] = deque(maxlen=WINDOW)

    def row(self, step: int, held: Mapping[str, int] | None) -> dict[str, Any]:
        """Keys of a row of metrics.jsonl.

        Args:
            step: of the row.
            held: bytes by what they are for, see `lumina.assemble.held_bytes`; None
                where they are not known.
        """
        used = _cuda_bytes() if self.device == "cuda" else _process_bytes()
        allocated, peak, reserved = used["allocated"], used["peak"], used["reserved"]
        taken = used["taken"]
        share = None if not self.total else taken / self.total
        row: dict[str, Any] = {
            "memory_allocated_bytes": allocated,
            "memory_peak_bytes": peak,
            "memory_reserved": reserved,
            "memory_utilization": share,
            "memory_fragmentation": fragmentation(allocated, reserved),
        }
        if share is not None:
            self._used.append((step, share))
        row["oom_risk_score"] = None if share is None else risk(self._used)
        if held is not None:
            row |= {f"{name}_memory": size for name, size in held.items()}
            row["activation_memory"] = (
                max(0, peak - sum(held.values())) if self.device == "cuda" else None
            )
        return row


def used_bytes(device: str) -> int:
    """What this process has taken of its device's memory.

    Args:
        device: "cuda" or "cpu"; on the CPU it is `own_bytes`.
    """
    return int((_cuda_bytes() if device == "cuda" else _process_bytes())["taken"])


def own_bytes(resident: int, status: Path | None = None) -> int:
    """What this process holds of the machine's memory and cannot be taken from it.

    That is its anonymous memory and what it shares with other processes
    (`RssAnon + RssShmem`, proc_pid_status(5)). The other resident pages are those of
    mapped files, such as a token store and libraries: the system drops them when
    memory is short, and reads them again.

    Args:
        resident: bytes of the process, the answer where the system does not tell
            these kinds apart (Linux before 4.5, and other systems).
        status: the file to read; by default `STATUS`.
    """
    try:
        lines = (STATUS if status is None else status).read_text().splitlines()
    except OSError:
        return resident
    sizes = dict(line.split(":", 1) for line in lines if line.startswith("Rss"))
    if not {"RssAnon", "RssShmem"} <= sizes.keys():
        return resident
    return sum(int(sizes[k].split()[0]) * 1024 for k in ("RssAnon", "RssShmem"))


def own_limit_bytes(device: str, processes: int) -> int:
    """What this process may take at most of the device that it has.

    The memory that a plan counts with is that of the first process's device.

    Args:
        device: likewise.
        processes: of the run on this machine, which share a CPU's memory.
    """
    if device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[1])
    return host_memory_bytes() // processes


def fragmentation(allocated: int, reserved: int | None) -> float | None:
    """Share of the reserved bytes that no tensor is in; None where there are none."""
    return 1 - allocated / reserved if reserved else None


def risk(used: deque[tuple[int, float]]) -> float:
    """How likely memory is to run out, from 0 to 1.

    The larger of the present share of memory and the one projected `HORIZON` steps
    ahead by the line through the first and the last row of the window, scaled so that
    `SAFE` is 0 and `FULL` is 1.

    Args:
        used: (step, share of the device's memory) of the last rows, at least one.
    """
    (first, before), (last, now) = used[0], used[-1]
    # A few steps only show how a run gets going.
    settled = len(used) == used.maxlen
    slope = (now - before) / (last - first) if settled and last > first else 0.0
    nearest = max(now, now + slope * HORIZON)
    return min(max((nearest - SAFE) / (FULL - SAFE), 0.0), 1.0)


def _cuda_bytes() -> dict[str, Any]:
    """Of the current device: in tensors now and at most, and taken from the driver."""
    import torch

    reserved = int(torch.cuda.memory_reserved())
    return {
        "allocated": int(torch.cuda.memory_allocated()),
        "peak": int(torch.cuda.max_memory_allocated()),
        "reserved": reserved,
        "taken": reserved,
    }


def _process_bytes() -> dict[str, Any]:
    """Of this process: resident now and at most, and what is its own of it."""
    import resource

    import psutil

    resident = int(psutil.Process().memory_info().rss)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "allocated": resident,
        "peak": max(most, resident),  # the system's own peak lags a little behind
        "reserved": None,
        "taken": own_bytes(resident),
    }
