"""What an optimizer's step takes on one GPU, beside a whole step of Work A.

The 1.498 B parameters of Work A (see work_ab.py), rows of 4,096 random tokens, 4 at a
time, AdamW first and once more last. For each variant: the median of `TIMED` whole
steps, of the optimizer's own time within them, between two events on the GPU, and the
largest memory. With `--variants` only those named.

    python benchmarks/optimizer_speed.py --out optimizer_speed.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

WARM_UP, TIMED = 3, 8
WORK_A: dict[str, Any] = {
    "preset": "debug",
    "use_moe": False,
    "hidden_size": 2048,
    "num_layers": 16,
    "num_heads": 32,
    "num_kv_heads": 8,
    "head_dim": 64,
    "intermediate_size": 8192,
    "vocab_size": 128256,
    "tie_embeddings": False,
    "seq_length": 4096,
    "batch_size": 4,
    "global_batch_size": 4,
    "gradient_checkpointing": "none",
    "steps": 100,
    "compile": False,
}
COMPILED = {"compile": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "adamw": {},
    "adamw_bf16": {"optimizer": "adamw_bf16"},
    "adamw_8bit": {"optimizer": "adamw_8bit"},
    "adamw_4bit": {"optimizer": "adamw_4bit"},
    "muon": {"optimizer": "muon"},
    "lion": {"optimizer": "lion"},
    "adafactor": {"optimizer": "adafactor"},
    "schedule_free": {"optimizer": "schedule_free", "lr_scheduler": "constant"},
    "sgd": {"optimizer": "sgd"},
    "compiled": COMPILED,
    "compiled, qk_clip": COMPILED | {"qk_clip": 100.0},
    "adamw again": {},
}


def measure(name: str) -> dict[str, Any]:
    """The figures of a variant."""
    import torch

    from lumina.assemble.assemble import assemble
    from lumina.batch import Batch
    from lumina.config import Config
    from lumina.data.stream import StepBatches
    from lumina.plan.environment import probe
    from lumina.plan.make import make_plan
    from lumina.train.step import train_step

    plan = make_plan(
        Config(**(WORK_A | VARIANTS[name])),
        probe("cuda"),
        tokenizer_vocab_size=None,
        rows_per_epoch=1000,
    )
    program = assemble(plan)
    program.model.train()
    rows, length = plan.micro_batch_size, plan.spec.seq_length
    generator = torch.Generator().manual_seed(0)
    torch.cuda.reset_peak_memory_stats()
    taken: list[tuple[Any, Any]] = []
    own_step = program.optimizer.step

    def timed_step(**arguments: Any) -> None:
        events = tuple(torch.cuda.Event(enable_timing=True) for _ in range(2))
        events[0].record()
        own_step(**arguments)
        events[1].record()
        taken.append((events[0], events[1]))

    program.optimizer.step = timed_step  # type: ignore[method-assign]
    seconds = []
    for step in range(WARM_UP + TIMED):
        shape = (rows, length + 1)
        ids = torch.randint(0, plan.spec.vocab_size, shape, generator=generator)
        batch = Batch.from_rows(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        tokens = rows * length
        batches = StepBatches([batch.to("cuda")], tokens, tokens, {}, 0.0, [])
        torch.cuda.synchronize()
        began = time.perf_counter()
        train_step(program, batches, step)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    found = {
        "variant": name,
        "step_ms": 1e3 * statistics.median(seconds[WARM_UP:]),
        "optimizer_ms": statistics.median(
            a.elapsed_time(b) for a, b in taken[WARM_UP:]
        ),
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "planned_optimizer_gib": plan.memory["optimizer"] / 2**30,
    }
    program.close()
    torch.cuda.empty_cache()
    return found


def main() -> None:
    """Measure, print a line for each variant, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("optimizer_speed.json"))
    parser.add_argument(
        "--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS)
    )
    arguments = parser.parse_args()
    found = []
    for name in arguments.variants:
        found.append(measure(name))
        print(
            "{variant:20} step {step_ms:7.1f} ms  optimizer {optimizer_ms:6.1f} ms  "
            "peak {peak_gib:5.1f} GiB".format(**found[-1]),
            flush=True,
        )
    import torch

    facts = {
        "benchmark": "optimizer_speed",
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "variants": found,
    }
    arguments.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
