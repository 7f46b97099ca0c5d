"""One step of a long row: whole, with recomputation, in chunks, with keys on the host.

Each case is planned as `lumina train` does and takes two steps on random tokens, in a
process of its own; the row is one document. Printed are the planned bound, the most
bytes that the device handed out (on a CPU: the largest resident size, of which a
process without any step takes a part), the seconds of the second step, and how far the
loss of the first step is from that of the whole row.

    python benchmarks/long_rows.py --preset dense_1b --lengths 32768 131072 524288
    python benchmarks/long_rows.py --device cpu --lengths 8192 --width 128 --layers 4
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

CASES: dict[str, dict[str, Any]] = {
    "whole": {"gradient_checkpointing": "none"},
    "whole, recomputed": {"gradient_checkpointing": "full"},
    "whole, blockwise": {"gradient_checkpointing": "none", "attention": "blockwise"},
    "chunks": {"use_chunked_training": True, "gradient_checkpointing": "none"},
    "chunks, recomputed": {
        "use_chunked_training": True,
        "gradient_checkpointing": "full",
    },
    "chunks, host": {
        "use_chunked_training": True,
        "gradient_checkpointing": "full",
        "chunk_offload": True,
    },
}


def step(case: dict[str, Any]) -> dict[str, Any]:
    """Two steps in this process."""
    import torch

    from lumina.assemble.assemble import assemble
    from lumina.batch import Batch
    from lumina.config import Config
    from lumina.data.stream import StepBatches
    from lumina.plan.environment import probe
    from lumina.plan.make import make_plan
    from lumina.train.step import train_step

    config = Config(**case, batch_size=1, global_batch_size=1, steps=2, compile=False)
    plan = make_plan(config, probe(), tokenizer_vocab_size=None, rows_per_epoch=None)
    program = assemble(plan)
    length, device = plan.spec.seq_length, program.device
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(0, plan.spec.vocab_size, (1, length + 1), generator=g)
    batch = Batch.from_rows(ids[:, :-1], ids[:, 1:])
    batches = StepBatches([batch], length, length, {}, None, [])
    losses, seconds = [], 0.0
    for number in range(2):
        begin = time.perf_counter()
        losses.append(float(train_step(program, batches, number)[0]))
        seconds = time.perf_counter() - begin
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "bound": plan.memory["bound"],
        "peak": peak,
        "seconds": seconds,
        "loss": losses[0],
        "chunk": plan.chunk_size,
        "attention": plan.attention,
    }


def main() -> int:
    """Every case at every length, a line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset")
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--chunk", type=int, help="tokens; default: by the length")
    parser.add_argument("--only", nargs="+", choices=tuple(CASES))
    parser.add_argument("--out", help="write the results as JSON, too")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(step(json.loads(args.case))))
        return 0
    shape: dict[str, Any] = {"hidden_size": args.width, "num_layers": args.layers}
    shape |= {"num_heads": 4, "num_kv_heads": 2, "use_moe": False}
    model = {"preset": args.preset} if args.preset else shape
    found: list[dict[str, Any]] = []
    for length in args.lengths:
        exact: float | None = None
        for name in args.only or CASES:
            case = model | CASES[name] | {"device": args.device, "seq_length": length}
            case["vocab_size"] = args.vocabulary
            if args.chunk and case.get("use_chunked_training"):
                case["chunk_size"] = args.chunk
            words = [sys.executable, __file__, "--case", json.dumps(case)]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            row: dict[str, Any] = {"length": length, "case": name}
            if done.returncode:
                row["failed"] = done.stderr.strip().splitlines()[-1][:200]
                print(f"{length:>9,}  {name:<18}  failed: {row['failed']}")
            else:
                row |= json.loads(done.stdout.splitlines()[-1])
                exact = row["loss"] if exact is None else exact
                print(
                    f"{length:>9,}  {name:<18}  bound {row['bound'] / 2**30:8.2f} GiB  "
                    f"peak {row['peak'] / 2**30:8.2f} GiB  {row['seconds']:8.2f} s  "
                    f"loss off by {abs(row['loss'] - exact):.1e}",
                    flush=True,
                )
            found.append(row)
    if args.out:
        with open(args.out, "w") as file:
            json.dump(found, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
