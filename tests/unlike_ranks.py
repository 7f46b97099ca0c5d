"""Injected in one rank of a run: slow work and a small memory."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

RANK = 1
"""The one that is unlike."""

TIMES, LEAST = 20, 0.15
"""Forwards that its forward takes, and seconds at least."""

FULL = 0.95
"""Share of its memory in use."""


def slow_and_small() -> None:
    """In the child: rank 1 sleeps behind each forward, and has little memory.

    How long it sleeps follows what the forward took, so that other work on the machine
    changes nothing about which rank is slow.
    """
    from lumina import host_memory
    from lumina.train.looks import ranks

    if int(os.environ["RANK"]) != RANK:
        return
    groups = Path(tempfile.mkdtemp())
    (groups / "membership").write_text("0::/\n")
    used = ranks.used_bytes

    def fills(device: str) -> int:
        taken = used(device)
        limit = int(taken * int(os.environ["LOCAL_WORLD_SIZE"]) / FULL)
        (groups / "memory.max").write_text(f"{limit}\n")
        host_memory.CGROUPS = groups
        host_memory.MEMBERSHIP = groups / "membership"
        return taken

    ranks.used_bytes = fills
    began = [0.0]

    def before(*_: Any) -> None:
        began[0] = time.perf_counter()

    def after(*_: Any) -> None:
        time.sleep(max(TIMES * (time.perf_counter() - began[0]), LEAST))

    def hooked(network: Any) -> None:
        network.backbone.register_forward_pre_hook(before)
        network.backbone.register_forward_hook(after)

    _once_for_each_network(hooked)


def _once_for_each_network(do: Any) -> None:
    from lumina.train import loop

    take, seen = loop.train_step, []

    def taken(program: Any, *rest: Any, **more: Any) -> Any:
        if program.network not in seen:
            seen.append(program.network)
            do(program.network)
        return take(program, *rest, **more)

    loop.train_step = taken
