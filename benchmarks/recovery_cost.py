"""What recovery costs a step: the robust clip, snapshots, and the check of gradients.

One program of 124 M parameters (GPT-2's shape, S=1024, 32 rows, bf16, compiled; on a
CPU a small model) trains with and without the robust clip in turn, A B B A. A block
gives one ratio. Then a snapshot is taken after every tenth step of a turn, in memory
that is there already, and turns with and without are compared in the same way. The
check of gradients is timed on its own.

    python benchmarks/recovery_cost.py --out benchmarks/results/recovery_cost-h200.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import work_shapes
from lumina.assemble.assemble import Progress, assemble, capture
from lumina.assemble.host_copies import HostCopies
from lumina.batch import Batch
from lumina.data.stream import StepBatches
from lumina.plan.plan import Plan
from lumina.train.recovery.repeat import ranks_that_differ
from lumina.train.step import train_step
from metrics_cost import SMALL, cuda, interval, now, settle

SHAPE = dict(vocab=50304, hidden=768, layers=12, heads=12, kv=12, head_dim=64, ffn=2048)
STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    shape, rows, length = (SHAPE, 32, 1024) if cuda() else (SMALL, 4, 128)
    device = "cuda" if cuda() else "cpu"
    plan = Plan(
        spec=work_shapes.spec_of(shape, length),
        device=device,
        compute_dtype="bfloat16" if cuda() else "float32",
        micro_batch_size=rows,
        global_batch_size=rows,
        steps=100_000,
        compile=cuda(),
        attention="varlen" if cuda() else "sdpa",
        loss_chunk_bytes=2**30,
        gradient_steps=("robust_clip",),
    )
    program = assemble(plan)
    program.model.train()
    clip = list(program.gradient_steps)
    batches = []
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(0, shape["vocab"], (rows, length + 1), generator=generator)
        batch = Batch.from_rows(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        count = rows * length
        batches.append(StepBatches([batch.to(device)], count, count, {}, 0.0, []))
    done = 0

    def turn(after: Callable[[int], None] = lambda step: None) -> float:
        nonlocal done
        settle()
        begin = now()
        for _ in range(STEPS):
            train_step(program, batches[done % len(batches)], done)
            done += 1
            after(done)
        settle()
        return now() - begin

    def with_clip(on: bool) -> float:
        program.gradient_steps[:] = clip if on else []
        return turn()

    copies = HostCopies(program.device) if cuda() else None
    if copies is not None:
        program.captures = [copies]

    def with_snapshots(on: bool) -> float:
        def take(step: int) -> None:
            if on and step % 10 == 0:
                capture(program, Progress(step=step), copies=copies)

        return turn(take)

    found: dict[str, Any] = {
        "benchmark": "recovery_cost",
        "device": torch.cuda.get_device_name() if cuda() else platform.processor(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "parameters": sum(p.numel() for p in program.network.parameters()),
        "blocks": arguments.blocks,
        "steps_per_turn": STEPS,
    }
    for name, take_turn in (("clip", with_clip), ("snapshots", with_snapshots)):
        take_turn(True), take_turn(False)  # compiles, and finds its memory
        ratios, plain = [], []
        for _ in range(arguments.blocks):
            spent = {True: 0.0, False: 0.0}
            for on in (False, True, True, False):
                spent[on] += take_turn(on)
            ratios.append(spent[True] / spent[False])
            plain.append(spent[False] / (2 * STEPS))
        ratio, (low, high) = statistics.median(ratios), interval(ratios)
        found[name] = {
            "ratio": ratio,
            "interval": [low, high],
            "ratios": ratios,
            "step_seconds": statistics.median(plain),
        }
        print(
            f"{name:9} {1000 * statistics.median(plain):8.2f} ms, x {ratio:.4f} "
            f"({low:.4f} to {high:.4f})"
        )
    seconds = []
    for index in range(4):
        settle()
        begin = now()
        ranks_that_differ(program, batches[index], done)
        settle()
        seconds.append(now() - begin)
    found["check_seconds"] = statistics.median(seconds)
    print(f"check     {1000 * found['check_seconds']:8.2f} ms each")
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
