"""Features together at a size where memory counts, on one GPU and on two.

A cell is a choice of features of the earlier design's matrix (`named.toml`), planned as
`lumina train` plans it, and trained for some steps on random tokens in a process of its
own, or in as many as there are GPUs. Printed are the most bytes that a device handed
out, the seconds of a step (the median), and the loss of the last step beside that of
the first cell of as many GPUs, which has none of the features.

    python benchmarks/together_at_size.py --out FILE [--gpus 1 2] [--only TEXT ...]
    python benchmarks/together_at_size.py --out FILE --limit   longest rows on 11 GB

Cells that FILE has are not measured again. `--limit` looks for the longest row, among
multiples of 2,048 tokens, that trains with at most 11 GB (of 1e9 bytes) of the device.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

PLAIN = {"precision": "fp32", "gradient_checkpointing": "none", "parallel": "auto"}
FULL, BF16 = {"gradient_checkpointing": "full"}, {"precision": "mixed_bf16"}
EIGHT = {"optimizer": "adamw_8bit"}
DDP, ZERO1, ZERO2, FSDP2 = (
    {"parallel": name} for name in ("ddp", "zero1", "zero2", "fsdp2")
)
CELLS: dict[int, dict[str, dict[str, Any]]] = {
    1: {
        "nothing": {},
        "mixed precision": BF16,
        "checkpointing": FULL,
        "MTX-01 checkpointing + mixed precision": FULL | BF16,
        "MTX-02 checkpointing + mixed precision + 8-bit": FULL | BF16 | EIGHT,
        "MTX-05 checkpointing + 8-bit": FULL | EIGHT,
    },
    2: {
        "ddp": DDP,
        "MTX-01 ddp + checkpointing + mixed precision": DDP | FULL | BF16,
        "MTX-08 ddp + mixed precision": DDP | BF16,
        "MTX-11 zero1 + checkpointing": ZERO1 | FULL,
        "MTX-11 zero2 + checkpointing": ZERO2 | FULL,
        "MTX-12 zero2 + mixed precision": ZERO2 | BF16,
        "MTX-13 fsdp2 + checkpointing + mixed precision": FSDP2 | FULL | BF16,
    },
}
"""GPUs -> cell -> what it has beside `PLAIN`. The first one has nothing."""

LIMIT = 11 * 10**9
STEP = 2048


def measured(options: dict[str, Any], steps: int, cap: int = 0) -> dict[str, Any]:
    """Train in this process, which may be one of several; the figures of this rank.

    Args:
        options: of the configuration.
        steps: how many.
        cap: bytes of the device that may be used; 0: all.
    """
    import torch

    from lumina.assemble.assemble import assemble
    from lumina.assemble.ranks import Ranks
    from lumina.batch import Batch
    from lumina.config import Config
    from lumina.data.stream import StepBatches
    from lumina.plan.environment import probe
    from lumina.plan.make import make_plan
    from lumina.train.step import train_step

    machine = probe()
    ranks = Ranks.from_environment()
    on_gpu = machine.device == "cuda"
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.reset_peak_memory_stats()
    ranks.connect(machine.device)
    if cap:
        machine = replace(machine, memory_bytes=cap)
    if cap and on_gpu:
        whole = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(cap / whole)
    plan = make_plan(
        Config(**options, steps=steps),
        machine,
        tokenizer_vocab_size=None,
        rows_per_epoch=None,
        world_size=ranks.world_size,
    )
    program = assemble(plan, ranks=ranks)
    length, rows = plan.spec.seq_length, plan.micro_batch_size
    draw = torch.Generator().manual_seed(ranks.rank)
    vocabulary = plan.spec.vocab_size
    shape = (plan.grad_accum * rows, length + 1)
    ids = torch.randint(0, vocabulary, shape, generator=draw)
    batches = [
        Batch.from_rows(one[:, :-1], one[:, 1:]) for one in ids.split(rows)
    ]  # fmt: skip
    tokens = plan.global_batch_size * length
    step = StepBatches(batches, tokens, tokens, {}, None, [])
    losses, seconds = [], []
    for number in range(steps):
        begin = time.perf_counter()
        losses.append(float(train_step(program, step, number)[0]))
        seconds.append(time.perf_counter() - begin)
    return {
        "peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else 0,
        "bound_bytes": plan.memory["bound"],
        "step_seconds": statistics.median(seconds[1:]),
        "losses": losses,
        "rows_a_forward": rows,
        "tokens_a_step": tokens,
        "gpus": ranks.world_size,
        "device": machine.device_name,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def launched(options: dict[str, Any], gpus: int, **how: int) -> dict[str, Any]:
    """One cell in processes of its own; {"failed": why} where it broke off.

    Args:
        options: of the configuration.
        gpus: how many, a process each.
        how: the number of `steps`, or the `most` tokens of a row, of which the longest
            is looked for.
    """
    asked = json.dumps({"options": options, **how})
    source = Path(__file__).resolve().parents[1] / "src"
    path = os.pathsep.join([str(source), os.environ.get("PYTHONPATH", "")])
    start = [sys.executable]
    if gpus > 1:
        start += ["-m", "torch.distributed.run", "--standalone"]
        start += [f"--nproc-per-node={gpus}"]
    done = subprocess.run(
        [*start, __file__, "--here", asked],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    for line in done.stdout.splitlines():
        if line.startswith("FOUND "):
            found: dict[str, Any] = json.loads(line.removeprefix("FOUND "))
            return found
    told = [line for line in done.stderr.splitlines() if line.strip()]
    return {"failed": " / ".join(told[-3:])[-400:]}


def longest(options: dict[str, Any], most: int) -> dict[str, Any]:
    """The longest row that trains in this process with at most `LIMIT` bytes."""
    good, bad, found = 0, most // STEP + 1, {}
    tried = 1
    while bad - good > 1:
        row = {"seq_length": tried * STEP, "batch_size": 1, "global_batch_size": 1}
        one = _attempt(options | row)
        print(f"  {tried * STEP:>8,} tokens: {told(one)}", file=sys.stderr, flush=True)
        if "failed" in one:
            bad = tried
        else:
            good, found = tried, one
        tried = min(2 * good, bad - 1) if bad > most // STEP else (good + bad) // 2
    return {"longest_row": good * STEP, "limit_bytes": LIMIT} | found


def _attempt(options: dict[str, Any]) -> dict[str, Any]:
    import torch

    from lumina.errors import LuminaError

    try:
        return measured(options, 3, LIMIT)
    except (torch.OutOfMemoryError, LuminaError) as error:
        return {"failed": f"{type(error).__name__}: {error}"}
    finally:
        gc.collect()
        torch.cuda.empty_cache()


def told(row: dict[str, Any]) -> str:
    """Its figures in one line."""
    if "failed" in row:
        return f"failed: {row['failed'][-120:]}"
    return (
        f"{row['peak_bytes'] / 2**30:6.2f} GiB  {row['step_seconds'] * 1e3:8.1f} ms  "
        f"loss {row['losses'][-1]:.5f}"
    )


def main() -> int:
    """Measure what is missing, and print it beside the first cell of its group."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--preset", default="dense_350m")
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--rows", type=int, default=8, help="of each GPU in a step")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1])
    parser.add_argument("--only", nargs="+", default=[], help="parts of cells' names")
    parser.add_argument("--limit", action="store_true", help="longest rows on 11 GB")
    parser.add_argument("--most", type=int, default=131_072, help="tokens of a row")
    parser.add_argument("--here", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        asked = json.loads(args.here)
        if "most" in asked:
            found = longest(asked["options"], asked["most"])
        else:
            found = measured(asked["options"], asked["steps"])
        if os.environ.get("RANK", "0") == "0":
            print("FOUND " + json.dumps(found), flush=True)
        return 0
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    there = {one["cell"]: one for one in map(json.loads, lines)}
    model = {"preset": args.preset, "compile": False}
    cells = [
        (f"{gpus} x {name}", gpus, PLAIN | options)
        for gpus in args.gpus
        for name, options in CELLS[gpus].items()
    ]
    if args.limit:
        plain = {"whole": {}, "checkpointing": FULL}
        plain["checkpointing + mixed precision"] = FULL | BF16
        plain["checkpointing + mixed precision + chunks"] = (
            FULL | BF16 | {"use_chunked_training": True}
        )
        cells = [
            (f"MTX-03 {name}", 1, PLAIN | options) for name, options in plain.items()
        ]
    wanted = [
        cell for cell in cells
        if not args.only or any(text in cell[0] for text in args.only)
    ]  # fmt: skip
    for name, gpus, options in wanted:
        if name not in there:
            if args.limit:
                found = launched(model | options, 1, most=args.most)
            else:
                rows = args.rows * gpus
                sizes = {"seq_length": args.length, "batch_size": args.rows}
                sizes["global_batch_size"] = rows
                found = launched(model | options | sizes, gpus, steps=args.steps)
            there[name] = {"cell": name, "options": options, **found}
            with args.out.open("a") as file:
                file.write(json.dumps(there[name]) + "\n")
        length = there[name].get("longest_row")
        shown = f"{length:,} tokens  " if length else ""
        print(f"{name:<52}  {shown}{told(there[name])}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
