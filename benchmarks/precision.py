"""Step time and memory of one model by precision, on one GPU.

For each precision a program of the same shape is assembled, trained for a few untimed
steps (compilation, the allocator), and then for `--steps` timed ones on random tokens.
Printed are the median of the steps' times, tokens a second, the peak of allocated
memory and the loss after the same number of steps; written as JSON with `--out`.

    python benchmarks/precision.py --out benchmarks/results/precision-h200.json

The default shape has 12 layers of 2,048 (0.67 B parameters) and 8,192 tokens a step, so
that all of it takes about a minute on an H200. `--no-compile` leaves compilation
out.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from lumina.assemble.assemble import assemble
from lumina.batch import Batch
from lumina.config import Config
from lumina.data.stream import StepBatches
from lumina.errors import LuminaError
from lumina.plan.environment import probe
from lumina.plan.make import make_plan
from lumina.train.step import train_step

MODES: dict[str, dict[str, Any]] = {
    "fp32": {"precision": "fp32"},
    "tf32": {"precision": "tf32"},
    "mixed_fp16": {"precision": "mixed_fp16"},
    "mixed_bf16": {"precision": "mixed_bf16"},
    "mixed_fp8": {"precision": "mixed_fp8"},
    "fp8_e4m3": {"precision": "fp8_e4m3"},
    "bf16 weights": {"amp": False, "model_dtype": "bf16"},
}


def batch_of(vocabulary: int, rows: int, length: int, seed: int) -> Batch:
    """Rows of one document each, of random tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocabulary, (rows, length + 1), generator=generator)
    starts = torch.arange(0, rows * length + 1, length, dtype=torch.int32)
    return Batch(
        input_ids=ids[:, :-1].contiguous(),
        labels=ids[:, 1:].contiguous(),
        position_ids=torch.arange(length).repeat(rows, 1),
        document_ids=torch.zeros(rows, length, dtype=torch.long),
        cu_seqlens=starts,
        max_seqlen=length,
        one_document_rows=True,
    )


def measured(options: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Times and memory of one precision."""
    config = Config(
        hidden_size=args.width,
        num_layers=args.layers,
        num_heads=args.width // 128,
        num_kv_heads=args.width // 128,
        intermediate_size=args.width * 11 // 4 // 128 * 128,
        vocab_size=args.vocabulary,
        seq_length=args.length,
        batch_size=args.rows,
        global_batch_size=args.rows,
        gradient_checkpointing="none",
        steps=args.steps + args.untimed,
        warmup_steps=0,
        compile=args.compile,
        seed=1,
        **options,
    )
    machine = probe(config)
    plan = make_plan(
        config, machine, tokenizer_vocab_size=args.vocabulary, rows_per_epoch=None
    )
    torch.set_float32_matmul_precision("high" if plan.tf32 else "highest")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    program = assemble(plan)
    tokens = args.rows * args.length
    seconds: list[float] = []
    loss = float("nan")
    for number in range(args.untimed + args.steps):
        batch = batch_of(args.vocabulary, args.rows, args.length, number % 4)
        step = StepBatches([batch], tokens, tokens, {}, None, [])
        torch.cuda.synchronize()
        begun = time.perf_counter()
        metrics = train_step(program, step, number)
        torch.cuda.synchronize()
        if number >= args.untimed:
            seconds.append(time.perf_counter() - begun)
        loss = float(metrics[0])
    peak = torch.cuda.max_memory_allocated()
    program.close()
    middle = statistics.median(seconds)
    return {
        "parameters": plan.parameters,
        "step_seconds": middle,
        "fastest": min(seconds),
        "slowest": max(seconds),
        "tokens_per_second": tokens / middle,
        "peak_bytes": peak,
        "planned_bytes": plan.memory["expected"],
        "loss": loss,
    }


def main() -> None:
    """Measure every precision that the device has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--untimed", type=int, default=3)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=32768)
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=True
    )
    args = parser.parse_args()
    found: dict[str, Any] = {}
    for name in args.modes:
        try:
            found[name] = measured(MODES[name], args)
        except LuminaError as error:
            print(f"{name:<13} {error.message}", flush=True)
            continue
        one = found[name]
        print(
            f"{name:<13} {one['step_seconds'] * 1e3:8.1f} ms  "
            f"{one['tokens_per_second']:10,.0f} tokens/s  "
            f"{one['peak_bytes'] / 2**30:6.1f} GiB (planned "
            f"{one['planned_bytes'] / 2**30:.1f})  loss {one['loss']:.4f}",
            flush=True,
        )
    if args.out is not None:
        facts = {
            "device": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "arguments": {k: v for k, v in vars(args).items() if k != "out"},
            "modes": found,
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
