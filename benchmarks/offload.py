"""What it costs to keep optimizer states beside the device, and what it saves.

Trains the same few steps with the states on the device, in host memory and on disk,
each also with the update in the backward pass, and prints seconds a step, the most
memory, the plan's bound and the last loss, which has to be the same in all rows. Before
that it measures how fast bytes go between host and device (pinned, both ways at once)
and to and from the folder. On a CPU it runs with `--preset debug`, without the rows of
`host`.

    python benchmarks/offload.py --folder /mnt/nvme --out offload.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from lumina.assemble.assemble import assemble
from lumina.batch import Batch
from lumina.config import Config
from lumina.data.stream import StepBatches
from lumina.optim.paging.home import chosen_home
from lumina.plan.environment import probe
from lumina.plan.make import make_plan
from lumina.train.step import train_step

GIB = 2**30
SETTLE, TIMED = 2, 5


def link_rates(device: torch.device) -> dict[str, float]:
    """GiB/s of pinned copies: to the device, from it, and each way when both go on."""
    if device.type != "cuda":
        return {}
    host = [torch.empty(GIB, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
    here = [torch.empty(GIB, dtype=torch.uint8, device=device) for _ in range(2)]
    streams = [torch.cuda.Stream(device) for _ in range(2)]

    def seconds(*ways: int) -> float:
        torch.cuda.synchronize()
        started = time.perf_counter()
        for way in ways:
            with torch.cuda.stream(streams[way]):
                pair = (here[0], host[0]) if way == 0 else (host[1], here[1])
                for _ in range(4):
                    pair[0].copy_(pair[1], non_blocking=True)
        torch.cuda.synchronize()
        return (time.perf_counter() - started) / 4

    seconds(0, 1)
    return {
        "to_device": 1 / seconds(0),
        "from_device": 1 / seconds(1),
        "each_way_of_both": 1 / seconds(0, 1),
    }


def disk_rates(folder: Path, size: int) -> dict[str, float]:
    """GiB/s of a page's file, written and read, maybe from the page cache."""
    home = chosen_home("disk")(size, folder, pinned=False)
    content = torch.ones(size, dtype=torch.uint8)
    started = time.perf_counter()
    home.write(content)
    written = time.perf_counter()
    home.read(content)
    read = time.perf_counter()
    home.close()
    return {
        "write": size / GIB / (written - started),
        "read": size / GIB / (read - written),
    }


def batches_of(plan: Any, step: int) -> StepBatches:
    """Random tokens, the same in every run."""
    torch.manual_seed(step)
    rows, length = plan.micro_batch_size, plan.spec.seq_length
    micro = []
    for _ in range(plan.grad_accum):
        ids = torch.randint(plan.spec.vocab_size, (rows, length + 1))
        micro.append(Batch.from_rows(ids[:, :-1].contiguous(), ids[:, 1:].contiguous()))
    count = rows * length * plan.grad_accum
    return StepBatches(micro, count, count, {}, 0.0, [])


def one(args: argparse.Namespace, place: str, early: bool) -> dict[str, Any]:
    """A row of the table."""
    config = Config.resolve(preset=args.preset).replace(
        batch_size=args.rows,
        global_batch_size=args.rows,
        max_grad_norm=0.0,
        gradient_checkpointing="full",
        optimizer_states_in=place,
        offload_folder=str(args.folder),
        optimizer_in_backward=early,
        steps=SETTLE + TIMED,
    )
    plan = make_plan(config, probe(), tokenizer_vocab_size=None, rows_per_epoch=1000)
    program = assemble(plan)
    cuda = program.device.type == "cuda"
    times = []
    for step in range(SETTLE + TIMED):
        batches = batches_of(plan, step)
        if cuda:
            if step == SETTLE:
                torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        started = time.perf_counter()
        metrics = train_step(program, batches, step)
        program.optimizer.settle()
        loss = metrics[0].item()
        times.append(time.perf_counter() - started)
    row = {
        "states": place,
        "in_backward": early,
        "seconds": sorted(times[SETTLE:])[TIMED // 2],
        "peak": torch.cuda.max_memory_allocated() if cuda else None,
        "bound": plan.memory["bound"],
        "beside": plan.elsewhere,
        "loss": loss,
    }
    program.close()
    return row


def main() -> int:
    """Measure, print, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="dense_1b")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--page-bytes", type=int, default=GIB // 4)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "link_gib_per_second": link_rates(device),
        "disk_gib_per_second": disk_rates(args.folder, args.page_bytes),
        "rows": [],
    }
    print({name: value for name, value in found.items() if name != "rows"})
    places = ("device", "host", "disk") if device.type == "cuda" else ("device", "disk")
    for place in places:
        for early in (False, True):
            row = one(args, place, early)
            found["rows"].append(row)
            print(row, flush=True)
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")
    losses = {row["loss"] for row in found["rows"]}
    return 0 if len(losses) == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
