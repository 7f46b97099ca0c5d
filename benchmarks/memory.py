"""Is the planner's memory right? Its two figures beside what steps really take.

Plans each case as `lumina train` does, builds it, and trains three steps on random
tokens, in a process of its own; every row is one document. Compares the planned
`expected` and `bound` with the most bytes that PyTorch's allocator handed out
(allocated) and took from the device (reserved). Several processes share the GPU: each
sees its own bytes only. It ends with exit code 1 if a bound was under what was
allocated.

    python benchmarks/memory.py --out memory.json [--only NAME ...] [--workers 6]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

ROOM = 115 * 2**30
"""Bytes that the processes beside each other may be planned to take."""

STEPS = 3
FP32 = {"precision": "fp32"}
EMA = {"ema_decay": 0.999}
FULL = {"gradient_checkpointing": "full"}
SELECTIVE = {"gradient_checkpointing": "selective"}
COMPILED = {"compile": True}
MEDIUM = {"preset": "dense_125m", "vocab_size": 50304, "seq_length": 2048, "rows": 8}
LARGE = {
    "preset": "dense_1b",
    "vocab_size": 128256,
    "tie_embeddings": False,
    "seq_length": 4096,
    "rows": 4,
}
LONG = {"preset": "dense_350m", "vocab_size": 50304, "seq_length": 32768, "rows": 1}
ROUTED = {"preset": "m120_speed", "rows": 8}
CASES: dict[str, dict[str, Any]] = {
    "125M": MEDIUM,
    "125M compiled": MEDIUM | COMPILED,
    "125M selective": MEDIUM | SELECTIVE,
    "125M full": MEDIUM | FULL,
    "125M full, compiled": MEDIUM | FULL | COMPILED,
    "125M fp32": MEDIUM | FP32,
    "125M fp32, compiled": MEDIUM | FP32 | COMPILED,
    "125M fp16": MEDIUM | {"precision": "fp16"},
    "125M EMA": MEDIUM | EMA,
    "125M EMA, fp32": MEDIUM | EMA | FP32,
    "125M accumulate 4": MEDIUM | {"rows": 2, "accumulate": 4},
    "125M accumulate 4, fp32": MEDIUM | FP32 | {"rows": 2, "accumulate": 4},
    "125M one row": MEDIUM | {"rows": 1},
    "125M one row, EMA, fp32": MEDIUM | {"rows": 1} | EMA | FP32,
    "125M dropout": MEDIUM | {"dropout": 0.1},
    "125M qk norm": MEDIUM | {"qk_norm": "rms"},
    "125M latent": MEDIUM | {"mla_kv_rank": 128},
    "125M frozen embedding": MEDIUM | {"freeze": ("backbone.embedding.*",)},
    "10M": {"preset": "dense_10m", "rows": 4},
    "10M full": {"preset": "dense_10m", "rows": 4} | FULL,
    "10M fp32": {"preset": "dense_10m", "rows": 4} | FP32,
    "30M": {"preset": "dense_30m", "rows": 16},
    "1B": LARGE,
    "1B compiled": LARGE | COMPILED,
    "1B EMA": LARGE | EMA,
    "1B full": LARGE | FULL,
    "1B full, EMA, fp32": LARGE | FULL | EMA | FP32,
    "1B one row, accumulate 2": LARGE | {"rows": 1, "accumulate": 2},
    "3B full": {"preset": "dense_3b", "rows": 1} | FULL,
    "32K": LONG,
    "32K compiled": LONG | COMPILED,
    "32K selective": LONG | SELECTIVE,
    "32K full": LONG | FULL,
    "32K full, compiled": LONG | FULL | COMPILED,
    "32K EMA": LONG | EMA,
    "32K full, fp32": LONG | FULL | FP32,
    "32K full, EMA, fp32": LONG | FULL | FP32 | EMA,
    "32K selective, EMA, fp32": LONG | SELECTIVE | FP32 | EMA,
    "32K 125M, EMA, fp32": MEDIUM | EMA | FP32 | {"seq_length": 32768, "rows": 1},
    "experts": ROUTED,
    "experts compiled": ROUTED | COMPILED,
    "experts full": ROUTED | FULL,
    "experts EMA": ROUTED | EMA,
    "experts capacity": ROUTED | {"moe_dispatch": "capacity"},
    "experts fp32": ROUTED | FP32 | {"rows": 4},
    "experts b1": {"preset": "b1", "rows": 4},
    "depths": {"preset": "debug_200m", "rows": 4},
    "depths compiled": {"preset": "debug_200m", "rows": 4} | COMPILED,
    "depths of recursions": {"preset": "100M", "rows": 4},
    "depths of recursions, full": {"preset": "250M", "rows": 4} | FULL,
    "recursions": MEDIUM | {"use_mor": True, "mor_recursions": 3, "rows": 4},
    "reasoner, text": {"preset": "hrm_text", "rows": 4},
}
"""Name -> options of `lumina train`; `rows` and `accumulate` split the step."""


def plan_of(name: str) -> Any:
    """The Plan of a case on this machine."""
    from lumina.config import Config
    from lumina.plan.environment import probe
    from lumina.plan.make import make_plan

    options = {"compile": False, "gradient_checkpointing": "none"} | CASES[name]
    rows, accumulate = options.pop("rows"), options.pop("accumulate", 1)
    preset = options.pop("preset")
    config = Config(
        preset=preset,
        batch_size=rows,
        global_batch_size=rows * accumulate,
        steps=100,
        **options,
    )
    return make_plan(
        config, probe("cuda"), tokenizer_vocab_size=None, rows_per_epoch=1000
    )


def measure(name: str) -> dict[str, Any]:
    """Three steps of a case on this process's GPU."""
    import torch

    from lumina.assemble.assemble import assemble
    from lumina.assemble.ranks import Ranks
    from lumina.batch import Batch
    from lumina.data.stream import StepBatches
    from lumina.train.step import train_step

    plan = plan_of(name)
    ranks = Ranks.from_environment()
    ranks.connect("cuda")
    program = assemble(plan, ranks=ranks)
    program.model.train()
    generator = torch.Generator().manual_seed(0)
    rows, length = plan.micro_batch_size, plan.spec.seq_length
    tokens = rows * length * plan.grad_accum

    def micro_batch() -> Any:
        shape = (rows, length + 1)
        ids = torch.randint(0, plan.spec.vocab_size, shape, generator=generator)
        batch = Batch.from_rows(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        return batch.to("cuda")

    for step in range(STEPS):
        micro_batches = [micro_batch() for _ in range(plan.grad_accum)]
        batches = StepBatches(micro_batches, tokens, tokens, {}, 0.0, [])
        train_step(program, batches, step)
    torch.cuda.synchronize()
    free, whole = torch.cuda.mem_get_info()
    return {
        "case": name,
        "memory": plan.memory,
        "attention": plan.attention,
        "checkpointing": plan.gradient_checkpointing,
        "micro_batch_size": rows,
        "compute_dtype": plan.compute_dtype,
        "compile": plan.compile,
        "allocated": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.max_memory_reserved(),
        "used_on_device": whole - free,
    }


class Room:
    """Lets processes begin while their planned bytes fit beside each other."""

    def __init__(self, size: int) -> None:
        self._free = self._size = size
        self._changed = threading.Condition()

    def run(self, name: str) -> dict[str, Any]:
        """Measure a case in a process of its own."""
        need = min(plan_of(name).memory["bound"] + 2**30, self._size)
        with self._changed:
            self._changed.wait_for(lambda: need <= self._free)
            self._free -= need
        try:
            done = subprocess.run(
                [sys.executable, __file__, "--measure", name],
                capture_output=True,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": "2"},
            )
        finally:
            with self._changed:
                self._free += need
                self._changed.notify_all()
        if done.returncode:
            return {"case": name, "error": done.stderr[-1500:]}
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


def line(found: dict[str, Any]) -> str:
    """A row of the table: gibibytes, and the figures over what was allocated."""
    if "error" in found:
        return f"{found['case']:28} {found['error'].strip().splitlines()[-1]}"
    allocated, memory = found["allocated"], found["memory"]
    bound = memory["bound"]
    return (
        f"{found['case']:28} {allocated / 2**30:7.2f} {found['reserved'] / 2**30:7.2f}"
        f" {memory['expected'] / allocated:6.3f} {bound / allocated:6.3f}"
        f" {bound / found['reserved']:6.3f}"
    )


def main() -> int:
    """Measure all, print a line for each, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="memory.json")
    parser.add_argument("--only", nargs="+", choices=list(CASES))
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--measure", choices=list(CASES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return 0
    import torch

    facts = {
        "benchmark": "memory",
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }
    room = Room(ROOM)
    print(f"{'case':28} {'alloc.':>7} {'reserv.':>7} expect.  bound  b/res.")
    cases: list[dict[str, Any]] = []
    with ThreadPoolExecutor(arguments.workers) as pool:
        for found in pool.map(room.run, arguments.only or list(CASES)):
            cases.append(found)
            print(line(found), flush=True)
            with open(arguments.out, "w", encoding="utf-8") as file:
                file.write(json.dumps(facts | {"cases": cases}, indent=1) + "\n")
    under = [
        found["case"]
        for found in cases
        if "error" not in found and found["memory"]["bound"] < found["allocated"]
    ]
    if under:
        print(f"the bound is under what was allocated: {', '.join(under)}")
    return 1 if under else 0


if __name__ == "__main__":
    sys.exit(main())
