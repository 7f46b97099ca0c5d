"""What `--adaptive on` adds to the time of a step of a healthy run.

Two whole trainings live in one process, one with `--adaptive off` and one with
`--adaptive on`, each in a thread of its own: loop, rules, rows, events, snapshots and
all else that a run does. Only one of them runs at a time. A turn is twenty steps and
ends when the device has done all that was queued; a block is the turns off, on, on,
off, or the other way round, and the times of a block are compared. On a GPU the
model has 124 M parameters (768 wide, 12 layers, rows of 1,024 tokens, compiled); on a
CPU it is that of `lumina demo`, and the time is that of the process, which other work
disturbs less.

    python benchmarks/adaptive_overhead.py --data books.tar.xz --out overhead.json

The goal is an upper 95% bound of 0.5% on a GPU, and of 2% on a CPU.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lumina.config import Config
from lumina.observe.console import Console
from lumina.train.trainer import Trainer
from metrics_cost import interval, now, settle

STEPS = 20
"""Of a turn."""

GPU = {
    "preset": "debug",
    "use_moe": False,
    "hidden_size": 768,
    "num_layers": 12,
    "num_heads": 12,
    "num_kv_heads": 12,
    "intermediate_size": 2048,
    "tokenizer_vocab_size": 16384,
    "vocab_size": 50304,
    "seq_length": 1024,
    "batch_size": 16,
    "global_batch_size": 16,
    "compile": True,
    "precision": "bf16",
    "device": "cuda",
}
CPU = {"preset": "debug", "precision": "fp32", "device": "cpu", "compile": False}
COMMON = {
    "steps": 100_000,
    "epochs": None,
    "save_every_n_batches": 0,
    "eval_every_n_batches": 0,
    "report_samples": 0,
}


class Turns:
    """The order in which two runs train, and how long each turn took.

    Args:
        order: the names of the runs, turn by turn.
    """

    def __init__(self, order: list[str]) -> None:
        self.order = order
        self.seconds: list[float] = []
        self._changed = threading.Condition()
        self._ready = threading.Barrier(2)
        self._began = 0.0
        self._failed = False

    def begin(self) -> None:
        """Wait until both runs are prepared and compiled."""
        self._ready.wait()

    def wait(self, name: str) -> bool:
        """Wait for a turn of this run; False when there is none to come."""
        with self._changed:
            self._changed.wait_for(lambda: self._next in (name, None) or self._failed)
            if self._next is None or self._failed:
                return False
        settle()
        self._began = now()
        return True

    def done(self) -> None:
        """The turn is over."""
        settle()
        with self._changed:
            self.seconds.append(now() - self._began)
            self._changed.notify_all()

    def fail(self) -> None:
        """A run has ended before its time: the other one ends too."""
        self._ready.abort()
        with self._changed:
            self._failed = True
            self._changed.notify_all()

    @property
    def _next(self) -> str | None:
        taken = len(self.seconds)
        return self.order[taken] if taken < len(self.order) else None


def train(name: str, config: Config, turns: Turns) -> None:
    """One of the two runs, to the end of its turns."""

    def on_step(trainer: Trainer, row: dict[str, Any]) -> None:
        if row["step"] % STEPS:
            return
        if row["step"] == STEPS:
            turns.begin()
        else:
            turns.done()
        if not turns.wait(name):
            trainer.stop()

    console = Console(stream=io.StringIO(), live=False)
    try:
        Trainer(config, console=console, on_step=on_step).train()
    finally:
        turns.fail()


def order(blocks: int) -> Iterator[str]:
    """Off, on, on, off, and in every other block the other way round."""
    for block in range(blocks):
        pair = ("off", "on") if block % 2 == 0 else ("on", "off")
        yield from (*pair, *reversed(pair))


def main() -> None:
    """Let the two runs take turns; print and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="text to train on")
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    cuda = torch.cuda.is_available()
    turns = Turns(list(order(arguments.blocks)))
    with tempfile.TemporaryDirectory() as place:
        os.environ.setdefault("LUMINA_CACHE", str(Path(place) / "cache"))
        threads = []
        for name in ("off", "on"):
            config = Config(
                **(GPU if cuda else CPU),
                **COMMON,
                train_data=[str(arguments.data)],
                run_dir=str(Path(place) / name),
                adaptive=name,
            )
            thread = threading.Thread(target=train, args=(name, config, turns))
            threads.append(thread)
            thread.start()
        for thread in threads:
            thread.join()
        decided = [
            row
            for line in (Path(place) / "on/events.jsonl").read_text().splitlines()
            if (row := json.loads(line))["kind"] == "decision"
        ]
    if len(turns.seconds) < len(turns.order):
        sys.exit("a run ended before its time")
    spent: dict[str, list[float]] = {"off": [], "on": []}
    for block in range(arguments.blocks):
        sums = dict.fromkeys(spent, 0.0)
        for turn in range(4 * block, 4 * block + 4):
            sums[turns.order[turn]] += turns.seconds[turn]
        for name, total in sums.items():
            spent[name].append(total / (2 * STEPS))
    ratios = [a / b for a, b in zip(spent["on"], spent["off"], strict=True)]
    found = {
        "benchmark": "adaptive_overhead",
        "device": torch.cuda.get_device_name() if cuda else platform.processor(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "blocks": arguments.blocks,
        "steps_per_turn": STEPS,
        "step_seconds": {name: statistics.median(x) for name, x in spent.items()},
        "ratio": statistics.median(ratios),
        "interval": interval(ratios),
        "ratios": ratios,
        "decisions": len(decided),
    }
    low, high = found["interval"]
    print(
        f"off {statistics.median(spent['off']) * 1e3:.2f} ms, "
        f"on {statistics.median(spent['on']) * 1e3:.2f} ms: "
        f"{statistics.median(ratios):.4f} ({low:.4f} to {high:.4f}), "
        f"{len(decided)} decisions"
    )
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
