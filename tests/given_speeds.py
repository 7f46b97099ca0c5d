"""What runs measure of the processor once, given: no test depends on its speed.

A measurement takes a second in every cache that is new, and it wanders: where bfloat16
is about as fast as float32, `--precision auto` took the one in one cache and the other
in the next.
"""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path

from lumina.plan import cpu_precision, product_rate
from lumina.plan.environment import _cpu_name

SPEEDUP, RATE = 1.0, 1e11


def give_speeds() -> None:
    """In this process bfloat16 is as fast as float32, at 100 billion operations/s."""
    cpu_precision.measured_speedup = lambda seconds=0.8: SPEEDUP
    product_rate.measured_rate = lambda dtype, seconds=0.2: RATE


def keep_speeds(cache: Path) -> None:
    """The same for programs that use this cache, as though one had measured it."""
    known = {
        f"{_cpu_name()}, torch {version('torch')}, {threads} threads": SPEEDUP
        for threads in range(1, (os.cpu_count() or 1) + 1)
    }
    (cache / "bf16.json").write_text(json.dumps(known))
