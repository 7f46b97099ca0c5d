"""What the signs of life of a supervised training cost at each step.

python benchmarks/heartbeat_cost.py
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from lumina import heartbeat

STEPS, REPEATS = 20_000, 9


def seconds() -> float:
    """Seconds of the signs of one step, the quickest of several measurements."""
    found = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        for step in range(STEPS):
            heartbeat.still()
            heartbeat.beat("waiting for data", step)
            heartbeat.beat("step", step)
        found.append((time.perf_counter() - began) / STEPS)
    return min(found)


def main() -> None:
    """Measure without and with another process that looks after this one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the figures as JSON, too")
    arguments = parser.parse_args()
    off = seconds()
    with tempfile.TemporaryDirectory() as folder:
        os.environ[heartbeat.FOLDER] = folder
        heartbeat.begin()
        on = seconds()
        heartbeat.end()
    print(f"not watched {off * 1e6:.2f} us a step, watched {on * 1e6:.2f} us a step")
    if arguments.out is not None:
        facts = {
            "benchmark": "heartbeat_cost",
            "date": time.strftime("%Y-%m-%d"),
            "load": os.getloadavg()[0],
            "seconds_a_step": {"not watched": off, "watched": on},
        }
        arguments.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
