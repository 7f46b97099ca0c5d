"""Work A and Work B (see work_ab.py) on several GPUs of one host, and what is lost.

A cell is a work, a number of GPUs, a way of sharing the work and a number of
micro-batches a step. One group of processes measures all cells of a number of GPUs, one
after another, and the first rank appends each to a file of JSON lines as it is done, so
that an interrupted measurement goes on with the cells that are missing.

    python benchmarks/scaling.py --out scaling.jsonl [--gpus 1 2 4 8] [--only TEXT ...]
    python benchmarks/scaling.py --out scaling.jsonl --table

weak    every GPU has the rows that one GPU had: the ideal is N times its tokens/s.
        Measured with one micro-batch a step, when all communication has to hide behind
        one backward pass, and with eight.
strong  the 32 rows of a step are divided: 8 / N micro-batches on N GPUs.

`share` is tokens/s over N times those of one GPU with as many micro-batches (weak), or
with eight (strong). `zero2` and `fsdp2` also divide the optimizer, so their ideal is
faster than N times one GPU: `corrected` compares with a step of one GPU that spends 1/N
of its optimizer time.

Four times are of a profile of two further steps on the first rank: `communication` in
NCCL kernels, waiting for the other ranks included; `exposed`, the part of it in which
nothing else ran on the device; `computing` in other kernels; and `idle`, in which none
ran. Computing takes longer beside NCCL, which uses some of the device's multiprocessors
and of its bandwidth. The peer is torchtitan 0.2.2: FSDP2, compiled, float32 reduction.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import work_ab
import work_peers
import work_shapes

WARM_UP = 4
MOST_MICRO_BATCHES = 8
PARTS = ("communication", "exposed", "computing", "idle")


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
        work: "A" or "B".
        trainer: "lumina" or "torchtitan".
        gpus: how many.
        way: "none" on one GPU; "ddp" or "fsdp2".
        micro_batches: of a step, on each GPU.
    """

    work: str
    trainer: str
    gpus: int
    way: str
    micro_batches: int

    @property
    def name(self) -> str:
        """What the file calls it."""
        return f"{self.work}/{self.trainer}/{self.gpus}/{self.way}/{self.micro_batches}"

    @property
    def variant(self) -> str:
        """What `work_ab.py` calls it."""
        options = ["compile", self.way, f"accum{self.micro_batches}"]
        return f"{self.work}/{self.trainer}+" + "+".join(options)


def cells(gpus: int) -> list[Cell]:
    """All cells of a number of GPUs."""
    ways = ("none",) if gpus == 1 else ("ddp", "zero2", "fsdp2")
    counts = sorted({1, MOST_MICRO_BATCHES // gpus, MOST_MICRO_BATCHES})
    found = [
        Cell(work, "lumina", gpus, way, count)
        for work in work_shapes.SHAPES
        for way in ways
        for count in counts
    ]
    for work in work_shapes.SHAPES:
        for count in (1, MOST_MICRO_BATCHES):
            found.append(Cell(work, "torchtitan", gpus, ways[-1], count))
    return found


def measure(cell: Cell) -> dict[str, Any]:
    """Times, memory and communication of one cell, in this group of processes."""
    import torch

    maker: Callable[..., Any] = {
        "lumina": work_ab.lumina_step,
        "torchtitan": work_peers.torchtitan_step,
    }[cell.trainer]
    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    step, facts = maker(
        work_shapes.SHAPES[cell.work], set(cell.variant.split("/")[1].split("+")[1:])
    )
    for i in range(WARM_UP):
        step(i)
    torch.cuda.synchronize()
    ready = time.perf_counter() - began
    timed = 10 if cell.micro_batches == 1 else 5
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(timed + 1)]
    marks[0].record()
    losses = []
    for i in range(timed):
        losses.append(step(WARM_UP + i))
        marks[i + 1].record()
    torch.cuda.synchronize()
    times = [begin.elapsed_time(end) / 1e3 for begin, end in itertools.pairwise(marks)]
    peak = torch.cuda.max_memory_allocated()
    median = statistics.median(times)
    found = {
        "cell": cell.name,
        "step_seconds": median,
        "step_seconds_all": times,
        "tokens_per_second": facts["tokens_per_step"] / median,
        "tokens_per_step": facts["tokens_per_step"],
        "peak_gib": peak / 2**30,
        "last_loss": float(losses[-1]),
        "ready_seconds": ready,
    }
    optimizer = facts.pop("optimizer_seconds", None)
    if optimizer is not None:
        found["optimizer_seconds"] = optimizer(WARM_UP + timed)
    return found | communication(step)


def communication(step: Callable[[int], Any]) -> dict[str, float]:
    """Seconds a step in NCCL kernels, and those in which nothing else ran."""
    import torch
    from torch.profiler import ProfilerActivity

    with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for i in range(2):
            step(200 + i)
        torch.cuda.synchronize()
    sharing: list[tuple[float, float]] = []
    computing: list[tuple[float, float]] = []
    for event in profiler.events():
        if event.device_type != torch.autograd.DeviceType.CUDA:
            continue
        span = (event.time_range.start, event.time_range.end)
        (sharing if "nccl" in event.name.lower() else computing).append(span)
    shared, computed = length(joined(sharing)), length(joined(computing))
    busy = length(joined([*sharing, *computing]))
    every = joined([*sharing, *computing])
    steps = 2e6  # microseconds of two steps
    return {
        "communication_seconds": shared / steps,
        "exposed_seconds": (busy - computed) / steps,
        "computing_seconds": computed / steps,
        "idle_seconds": (every[-1][1] - every[0][0] - busy) / steps,
    }


def joined(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same moments as spans that do not overlap, in their order."""
    found: list[tuple[float, float]] = []
    for begin, end in sorted(spans):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found


def length(spans: Iterable[tuple[float, float]]) -> float:
    """The time that spans which do not overlap cover."""
    return sum(end - begin for begin, end in spans)


def measured(out: Path) -> dict[str, dict[str, Any]]:
    """The cells of a file, by name; the newest where one stands twice."""
    lines = out.read_text().splitlines() if out.exists() else []
    return {row["cell"]: row for row in map(json.loads, lines)}


def run_here(names: list[str], out: Path) -> None:
    """Measure cells in this process, which is one rank of their group."""
    import torch
    import torch.distributed as dist

    rank, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(local)
    by_name = {c.name: c for c in cells(int(os.environ["WORLD_SIZE"]))}
    for name in names:
        row = measure(by_name[name])
        row |= {
            "gpu": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "date": time.strftime("%Y-%m-%d"),
        }
        if rank == 0:
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(line(row), flush=True)
        torch._dynamo.reset()
        gc.collect()
        torch.cuda.empty_cache()
    if dist.is_initialized():
        dist.destroy_process_group()


def line(row: dict[str, Any]) -> str:
    """A cell in one line."""
    return (
        f"{row['cell']:24} {row['tokens_per_second']:9,.0f} tokens/s  "
        f"{row['step_seconds'] * 1e3:7.1f} ms  {row['peak_gib']:5.1f} GiB  "
        f"communication {row['communication_seconds'] * 1e3:6.1f} ms, "
        f"exposed {row['exposed_seconds'] * 1e3:5.1f}, "
        f"computing {row['computing_seconds'] * 1e3:6.1f}, "
        f"idle {row['idle_seconds'] * 1e3:4.1f}"
    )


def table(rows: dict[str, dict[str, Any]]) -> str:
    """What each cell reaches of the ideal, as Markdown."""
    lines = [
        "| work, trainer | GPUs | way | scaling | micro-batches | tokens/s | share | "
        "corrected | communication, ms | exposed | computing | idle | GiB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in sorted(rows.items()):
        work, trainer, gpus, way, count = name.split("/")
        if gpus == "1":
            continue
        compared = [("weak", int(count))]
        if int(count) * int(gpus) == MOST_MICRO_BATCHES:
            compared.append(("strong", MOST_MICRO_BATCHES))
        for scaling, single in compared:
            one = rows.get(f"{work}/{trainer}/1/none/{single}")
            if one is None:
                continue
            share, corrected = shares(row, one, int(gpus), way)
            lines.append(
                f"| {work}, {trainer} | {gpus} | {way} | {scaling} | {count} | "
                f"{row['tokens_per_second']:,.0f} | {share:.1%} | {corrected} | "
                + "".join(f"{row[f'{part}_seconds'] * 1e3:.1f} | " for part in PARTS)
                + f"{row['peak_gib']:.1f} |"
            )
    return "\n".join(lines)


def shares(
    row: dict[str, Any], one: dict[str, Any], gpus: int, way: str
) -> tuple[float, str]:
    """Tokens/s over the ideal, and the same beside a divided optimizer."""
    ideal = gpus * one["tokens_per_second"]
    share = row["tokens_per_second"] / ideal
    if way == "ddp" or "optimizer_seconds" not in one:
        return share, ""
    step, optimizer = one["step_seconds"], one["optimizer_seconds"]
    faster = step / (step - optimizer * (1 - 1 / gpus))
    return share, f"{share / faster:.1%}"


def main() -> None:
    """Measure the missing cells, group by group, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("scaling.jsonl"))
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--only", nargs="+", default=[], help="parts of cells' names")
    parser.add_argument("--table", action="store_true", help="print what is there")
    parser.add_argument("--here", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    if arguments.here:
        run_here(arguments.here, out)
        return
    if not arguments.table:
        for gpus in arguments.gpus:
            wanted = [c.name for c in cells(gpus) if c.name not in measured(out)]
            if arguments.only:
                wanted = [n for n in wanted if any(t in n for t in arguments.only)]
            if wanted:
                launch(gpus, wanted, out)
    print(table(measured(out)))


def launch(gpus: int, names: list[str], out: Path) -> None:
    """A group of processes for the cells of one number of GPUs."""
    source = Path(__file__).resolve().parents[1] / "src"
    path = os.pathsep.join([str(source), os.environ.get("PYTHONPATH", "")])
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *(f"--nproc-per-node={gpus}", __file__, "--out", str(out), "--here", *names),
    ]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, check=False)
    if done.returncode:
        raise SystemExit(f"the group of {gpus} ended with {done.returncode}")


if __name__ == "__main__":
    main()
