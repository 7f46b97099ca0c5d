"""Takes a few real steps in a process of its own, and says how much memory they took.

Started by `lumina.train.batch_search` as `python -m lumina.train.batch_probe`, with a
plan on standard input. Whatever happens here ends with the process, and leaves nothing
behind in the one that asked; so does running out of memory.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any

from lumina.memory_shortage import shortage_code

STEPS = 3
"""The first two take memory that later ones use again; the last one is timed."""


def main() -> int:
    """Print {"peak": bytes, "seconds": of a step}, or {"out_of_memory": true}."""
    asked = json.load(sys.stdin)
    try:
        found = _measured(asked)
    except Exception as error:
        if shortage_code(error) is None:
            raise
        found = {"out_of_memory": True}
    print(json.dumps(found), flush=True)
    return 0


def _measured(asked: dict[str, Any]) -> dict[str, Any]:
    import torch

    from lumina.assemble.assemble import assemble
    from lumina.batch import Batch
    from lumina.data.stream import StepBatches
    from lumina.model.registry import load_plugins
    from lumina.plan.plan import Plan
    from lumina.train.step import train_step

    load_plugins(asked["plugins"])
    plan = Plan.from_dict(asked["plan"])
    torch.set_float32_matmul_precision("high" if plan.tf32 else "highest")
    program = assemble(plan)
    rows, length = plan.micro_batch_size, plan.spec.seq_length
    draw = torch.Generator().manual_seed(0)
    forwards = []
    for _ in range(plan.grad_accum):
        tokens = torch.randint(plan.spec.vocab_size, (rows, length + 1), generator=draw)
        inputs, labels = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        forwards.append(Batch.from_rows(inputs, labels))
    count = plan.grad_accum * rows * length
    batches = StepBatches(forwards, count, count, {}, None, [])
    begun = 0.0
    for step in range(STEPS):
        begun = time.perf_counter()
        metrics = train_step(program, batches, step)
        metrics.tolist()  # waits for the device
    seconds = time.perf_counter() - begun
    if program.device.type == "cuda":
        peak = torch.cuda.max_memory_reserved(program.device)
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"peak": peak, "seconds": seconds, "tokens": count}


if __name__ == "__main__":
    sys.exit(main())
