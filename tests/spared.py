"""What tests are spared: measuring the processor, and waiting for a disk."""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path

from lumina.plan import cpu_precision, product_rate
from lumina.plan.environment import _cpu_name

SPEEDUP, RATE = 1.0, 1e11


def spare() -> None:
    """In this process bfloat16 is as fast as float32, and nothing waits for a disk.

    A measurement takes a second in every new cache, and it wanders: where bfloat16 is
    about as fast as float32, `--precision auto` took the one in one cache and the other
    in the next. What a power cut would leave is shown by the order of the calls
    (`tests/state/test_checkpoint.py`); a kill leaves all that was written.
    """
    cpu_precision.measured_speedup = lambda seconds=0.8: SPEEDUP
    product_rate.measured_rate = lambda dtype, seconds=0.2: RATE
    os.fsync = lambda descriptor: None


def keep_speeds(cache: Path) -> None:
    """The same for programs that use this cache, as though one had measured it."""
    known = {
        f"{_cpu_name()}, torch {version('torch')}, {threads} threads": SPEEDUP
        for threads in range(1, (os.cpu_count() or 1) + 1)
    }
    (cache / "bf16.json").write_text(json.dumps(known))
