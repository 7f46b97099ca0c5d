"""Work A (Llama-3.2-1B shape) and Work B (OLMoE shape): training speed on one GPU.

Work A: 16 layers of 2048, vocabulary 128,256, untied, 1.498 B parameters.
Work B: 8 layers of 2048, 64 experts of width 1,024, top-8, 3.56 B parameters.
Both: S=4096, micro-batch 4, random tokens; forward, cross entropy over all positions,
backward, clip 1.0, AdamW on float32 master weights; 4 warm-up and 10 timed steps, the
median. Each variant runs in a process of its own, in an order that alternates, so that
the comparison is of one machine and one hour.

    python benchmarks/work_ab.py --out results.json [--variants NAME ...] [--profile]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from work_peers import torchtitan_step, transformers_step
from work_shapes import (
    MICRO_BATCH,
    SEQUENCE,
    SHAPES,
    accumulated,
    random_batch,
    skew_,
    spec_of,
)

WARM_UP, TIMED = 4, 10
VARIANTS = [
    "A/transformers",
    "A/torchtitan+compile",
    "A/lumina",
    "A/lumina+compile",
    "B/transformers",
    "B/torchtitan+compile",
    "B/lumina",
    "B/lumina+compile",
    "B/torchtitan+compile+skewed",
    "B/lumina+compile+skewed",
]
PEAK = 989e12


def lumina_step(shape: dict[str, Any], options: set[str]) -> tuple[Any, dict[str, Any]]:
    """A closure that trains one step with Lumina's own step, and its facts."""
    import torch

    from lumina.assemble.assemble import assemble
    from lumina.assemble.ranks import Ranks
    from lumina.data.stream import StepBatches
    from lumina.plan.count import count_parameters
    from lumina.plan.flops import flops_per_token
    from lumina.plan.plan import Plan
    from lumina.train.looks.step_times import StepTimes
    from lumina.train.step import train_step
    from lumina.train.watch import Watch

    spec = spec_of(shape, SEQUENCE)
    accumulate = accumulated(options)
    ranks = Ranks.from_environment()
    ranks.connect("cuda")
    world = ranks.world_size
    plan = Plan(
        spec=spec,
        device="cuda",
        compute_dtype="bfloat16",
        micro_batch_size=MICRO_BATCH,
        grad_accum=accumulate,
        global_batch_size=MICRO_BATCH * accumulate * world,
        world_size=world,
        parallel=next((w for w in ("ddp", "zero2", "fsdp2") if w in options), "none"),
        steps=1000,
        warmup_steps=10,
        compile="compile" in options,
        attention="varlen",
        loss_chunk_bytes=(256 if "chunk256" in options else 1024) * 2**20,
        gradient_checkpointing=next(
            (m for m in ("full", "selective") if m in options), "none"
        ),
    )
    program = assemble(plan, ranks=ranks)
    program.model.train()
    if "skewed" in options:
        for block in program.network.backbone.blocks:
            skew_(block.feedforward.router.weight.data)
    batches = [
        StepBatches(
            micro_batches=[random_batch(shape["vocab"], i * accumulate + j)
                           for j in range(accumulate)],
            loss_tokens=MICRO_BATCH * SEQUENCE * accumulate * world,
            tokens=MICRO_BATCH * SEQUENCE * accumulate * world,
            cursor={},
            epoch=0.0,
            row_ids=[],
        )
        for i in range(4)
    ]  # fmt: skip
    counts = count_parameters(spec)
    facts = {
        "parameters": counts.total,
        "active_parameters": counts.active,
        "flops_per_token": flops_per_token(spec),
        "tokens_per_step": MICRO_BATCH * SEQUENCE * accumulate * world,
        "world_size": world,
    }
    last: dict[str, Any] = {}

    def step(i: int) -> Any:
        last["values"] = train_step(program, batches[i % 4], i)
        return last["values"][0]

    def violation() -> list[float]:
        """Per layer, the largest expert's load over the mean, less one."""
        from lumina.model.kinds.table import count_shapes, loss_terms
        from lumina.train.counts import divide_counts
        from lumina.train.step import SCALARS

        values = last["values"][len(SCALARS) + len(loss_terms(spec)) :]
        counts = dict(divide_counts(values, count_shapes(spec)))["moe.counts"]
        return (counts.amax(1) / counts.mean(1) - 1).tolist()

    def optimizer_seconds(first: int) -> float:
        """The optimizer's part of a step: the median of three."""
        times = []
        for i in range(first, first + 3):
            look = StepTimes(program, batches[i % 4])
            train_step(program, batches[i % 4], i, watch=Watch([look]))
            torch.cuda.synchronize()
            times.append(look.row([])["optimizer_time"])
        return statistics.median(times)

    facts["optimizer_seconds"] = optimizer_seconds
    if spec.moe is not None:
        facts["violation"] = violation
    return step, facts


def measure(variant: str, profile: bool) -> dict[str, Any]:
    """Run one variant in this process."""
    import torch

    work, name = variant.split("/")
    options = set(name.split("+")[1:])
    makers = {"transformers": transformers_step, "torchtitan": torchtitan_step}
    make = makers.get(name.split("+")[0], lumina_step)
    started = time.perf_counter()
    step, facts = make(SHAPES[work], options)
    torch.cuda.synchronize()
    built = time.perf_counter() - started
    losses = [step(i) for i in range(WARM_UP)]
    torch.cuda.synchronize()
    warm = time.perf_counter() - started - built
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(TIMED + 1)]
    marks[0].record()
    for i in range(TIMED):
        losses.append(step(WARM_UP + i))
        marks[i + 1].record()
    torch.cuda.synchronize()
    times = [a.elapsed_time(b) / 1e3 for a, b in itertools.pairwise(marks)]
    median = statistics.median(times)
    if options & {"skewed", "balanced"} and make is lumina_step:
        facts["max_violation"] = facts.pop("violation")()
    facts.pop("violation", None)
    facts.pop("optimizer_seconds", None)
    result = facts | {
        "variant": variant,
        "tokens_per_second": facts["tokens_per_step"] / median,
        "step_seconds": median,
        "step_seconds_all": times,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "first_loss": losses[0].item(),
        "last_loss": losses[-1].item(),
        "build_seconds": built,
        "warm_up_seconds": warm,
    }
    if profile:
        result["profile"] = profile_table(step)
    return result


def profile_table(step: Any) -> list[dict[str, Any]]:
    """GPU time by kernel over two steps, the 25 largest."""
    import torch
    from torch.profiler import ProfilerActivity

    with torch.profiler.profile(
        activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]
    ) as profiler:
        for i in range(2):
            step(100 + i)
        torch.cuda.synchronize()
    rows = [
        {
            "kernel": event.key[:90],
            "ms_per_step": event.self_device_time_total / 2e3,
            "calls_per_step": event.count / 2,
        }
        for event in profiler.key_averages()
        if event.device_type == torch.autograd.DeviceType.CUDA
    ]
    rows.sort(key=lambda row: -row["ms_per_step"])
    return rows[:25]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("work_ab.json"))
    parser.add_argument("--variants", nargs="+", default=VARIANTS)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--one", help="run this variant here and print JSON")
    args = parser.parse_args()
    import torch

    if args.one:
        result = measure(args.one, args.profile)
        if os.environ.get("RANK", "0") == "0":
            print("RESULT " + json.dumps(result))
        return
    results = []
    for variant in args.variants:
        command = [sys.executable, __file__, "--one", variant]
        gpus = (
            torch.cuda.device_count() if "ddp" in variant or "fsdp2" in variant else 1
        )
        if gpus > 1:
            launcher = ["-m", "torch.distributed.run", "--standalone"]
            command[1:1] = [*launcher, f"--nproc-per-node={gpus}"]
        command += ["--profile"] if args.profile else []
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ, check=False
        )
        lines = [x for x in done.stdout.splitlines() if x.startswith("RESULT ")]
        if lines:
            results.append(json.loads(lines[-1][7:]))
        else:
            tail = (done.stdout + done.stderr).strip().splitlines()[-25:]
            results.append({"variant": variant, "error": "\n".join(tail)})
        save(args.out, results)
    for row in results:
        print(line(row))
        for kernel in row.get("profile", [])[:22]:
            print(
                "    {ms_per_step:8.2f} ms {calls_per_step:7.1f}x {kernel}".format(
                    **kernel
                )
            )


def save(path: Path, results: list[dict[str, Any]]) -> None:
    import torch

    facts = {
        "benchmark": "work_ab",
        "date": time.strftime("%Y-%m-%d"),
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "sequence": SEQUENCE,
        "micro_batch": MICRO_BATCH,
        "results": results,
    }
    path.write_text(json.dumps(facts, indent=1) + "\n")


def line(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"{row['variant']:<24} failed\n{row['error']}"
    rate = row["tokens_per_second"]
    flops = row.get("flops_per_token")
    peak = PEAK * row.get("world_size", 1)
    mfu = f"{rate * flops / peak:6.1%}" if flops else "     -"
    return (
        f"{row['variant']:<24} {rate:9,.0f} tok/s  MFU {mfu}  "
        f"{row['peak_gib']:6.1f} GiB  loss {row['first_loss']:.4f} -> "
        f"{row['last_loss']:.4f}  warm-up {row['warm_up_seconds']:.0f} s"
    )


if __name__ == "__main__":
    main()
