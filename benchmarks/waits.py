"""Do small things stay quick? What a person or a run waits for, on this machine's CPU.

Each is measured several times, and the quickest counts: others may use the machine. The
limits are an order of magnitude above what two idle cores need, so that only a mistake
goes beyond one. The exit code is 1 when something did.

    python benchmarks/waits.py [--output waits.json]
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lumina.config import ConfigPresets
from lumina.data.packing import best_fit
from lumina.errors import LuminaError
from lumina.model.build import build_network
from lumina.model.spec import ModelSpec
from lumina.observe.console import Console
from lumina.plan.count import count_parameters
from lumina.plan.plan import Plan
from lumina.plan.shape import resolve_spec
from lumina.state.checkpoint import CheckpointStore
from lumina.state.state import State

SPEC = ModelSpec(
    vocab_size=4000,
    padded_vocab_size=4032,
    hidden_size=128,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    intermediate_size=384,
    seq_length=256,
)
CALLS = 1000


def help_text() -> float:
    """`lumina --help`, a whole process."""
    return seconds(
        lambda: subprocess.run(
            [sys.executable, "-m", "lumina", "--help"], check=True, capture_output=True
        )
    )


def console_step() -> float:
    """A step of which the console shows nothing, its live block open."""
    console = Console(stream=io.StringIO(), live=True)
    console.start(Plan(spec=SPEC, log_every=10**9), 0)
    row: dict[str, Any] = {
        "step": 1,
        "tokens": 1,
        "epoch": 0.0,
        "loss": 5.0,
        "learning_rate": 1e-3,
    }
    row |= {"grad_norm": 1.0, "skipped": 0, "tokens_per_second": 1.0, "mfu": None}
    row |= {"step_seconds": 0.5, "data_wait_seconds": 0.0, "memory_peak_bytes": 1}

    def steps() -> None:
        for step in range(1, CALLS + 1):
            console.step(row | {"step": step})

    spent = seconds(steps)
    console.close()
    return spent / CALLS


def packing() -> float:
    """Rows for a million documents."""
    drawn = np.random.default_rng(0).exponential(600, 10**6)
    lengths = np.clip(drawn.astype(np.int64), 1, 4096)
    return seconds(lambda: best_fit(lengths, 4096))


def largest_preset() -> float:
    """The preset that takes longest, built without memory and counted."""

    def build(name: str) -> None:
        spec = resolve_spec(ConfigPresets.get(name))
        count_parameters(spec)
        build_network(spec, device="meta")

    return max(seconds(partial(build, name)) for name in ConfigPresets.names())


def giving_up() -> float:
    """Leaving a checkpoint that another rank will never finish."""
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(folder, 2, 0, 2, rank_timeout=60)
        store.save(State(tensors={"weight": torch.ones(8)}, counters={"step": 1}))

        def leave() -> None:
            with suppress(LuminaError):
                store.close(wait=False)

        return seconds(leave)


LIMITS: dict[Callable[[], float], float] = {
    help_text: 0.3,
    console_step: 1e-3,
    packing: 5.0,
    largest_preset: 10.0,
    giving_up: 2.0,
}


def seconds(action: Callable[[], Any]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def main() -> None:
    """Measure all, print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    found = {
        measure.__name__: min(measure() for _ in range(args.repeat))
        for measure in LIMITS
    }
    for measure, limit in LIMITS.items():
        took = found[measure.__name__]
        verdict = "" if took <= limit else "  TOO SLOW"
        what = (measure.__doc__ or "").rstrip(".")
        print(f"{took:>10.5f} s of {limit:g} s  {what}{verdict}")
    if args.output:
        facts = {
            "benchmark": "waits",
            "date": time.strftime("%Y-%m-%d"),
            "device": "CPU",
            "torch": torch.__version__,
            "python": platform.python_version(),
            "seconds": found,
        }
        args.output.write_text(json.dumps(facts, indent=1) + "\n")
    slow = any(found[measure.__name__] > limit for measure, limit in LIMITS.items())
    sys.exit(int(slow))


if __name__ == "__main__":
    main()
