"""How long writing a run's report takes, how large it is, and what memory that needs.

    python benchmarks/report_size.py [STEPS ...]

Makes a metrics.jsonl as a Mixture of Experts with two layers of four experts writes it.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import tempfile
import time
from pathlib import Path

from lumina.observe.report import write_report


def row(step: int) -> dict:
    wave = math.sin(step * 0.7)
    names = (
        "grad_norm",
        "learning_rate",
        "tokens_per_second",
        "step_seconds",
        "data_wait_seconds",
        "memory_allocated_bytes",
        "memory_peak_bytes",
    )
    figures = {name: 2 + wave for name in names}
    lists = {
        f"moe.{name}": [1 + wave, 1 - wave]
        for name in ("max_violation", "load_entropy", "dropped_fraction")
    }
    load = [[0.25 + wave / 8, 0.25 - wave / 8, 0.25, 0.25]] * 2
    tokens = {"step": step, "tokens": step * 4096, "epoch": step / 900}
    return tokens | {"loss": 3 + wave} | figures | lists | {"moe.load": load}


def main() -> None:
    """One line for each length of run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--out", type=Path, help="write the figures as JSON, too")
    arguments = parser.parse_args()
    found = []
    for steps in arguments.steps:
        with tempfile.TemporaryDirectory() as folder:
            with open(Path(folder) / "metrics.jsonl", "w") as file:
                for step in range(1, steps + 1):
                    file.write(json.dumps(row(step)) + "\n")
            begun = time.perf_counter()
            size = write_report(folder).stat().st_size
            seconds = time.perf_counter() - begun
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        print(f"{steps:,} steps: {seconds:.1f} s, {size:,} bytes, {memory:.0f} MiB")
        found.append(
            {"steps": steps, "seconds": seconds, "bytes": size, "memory_mib": memory}
        )
    if arguments.out is not None:
        facts = {
            "benchmark": "report_size",
            "date": time.strftime("%Y-%m-%d"),
            "reports": found,
        }
        arguments.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
