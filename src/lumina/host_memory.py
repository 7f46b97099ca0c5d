"""Memory and cores this process may use, with the limits of containers honoured."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def host_memory_bytes() -> int:
    """Memory this process can have at most: the machine's, or its control group's."""
    import psutil

    installed = int(psutil.virtual_memory().total)
    limit = cgroup_limit(CGROUPS, MEMBERSHIP)
    return installed if limit is None else min(installed, limit)


def cgroup_limit(root: Path, membership: Path) -> int | None:
    """The tightest memory limit of this process's control groups, or None.

    Args:
        root: where control groups are mounted.
        membership: lines `ID:CONTROLLERS:PATH`, as in /proc/self/cgroup.
    """
    try:
        lines = membership.read_text(errors="replace").splitlines()
    except OSError:
        return None
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2: one tree for everything
            base, name = root, "memory.max"
        elif "memory" in controllers.split(","):
            base, name = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        # In a container the path may be the host's and absent here; the mount's root
        # is then the container's own group, which is the last place looked at.
        inside = PurePosixPath(path.lstrip("/"))
        for group in (inside, *inside.parents):
            limits.append(_limit(base / group / name))
    known = [limit for limit in limits if limit is not None]
    return min(known, default=None)


def usable_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _limit(path: Path) -> int | None:
    try:
        text = path.read_text(errors="replace").strip()
    except OSError:
        return None
    # Version 1 writes "no limit" as a number near 2**63.
    return None if text == "max" or int(text) >= 2**60 else int(text)
