"""Speed, memory, decoding and where a step's time goes, for one architecture."""

from __future__ import annotations

import statistics
import time
from typing import Any

from counting import executed_flops_per_token
from shapes import MICRO_BATCH, SEQUENCE

WARM_UP, TIMED, PROFILED = 6, 20, 3
KINDS = (
    ("products", ("gemm", "cutlass", "nvjet", "cublas", "grouped", "splitk", "xmma")),
    ("attention", ("flash", "fmha", "sdpa", "cudnn")),
    ("optimizer", ("adamw", "_step_kernel", "multi_tensor", "foreach")),
    ("moves of tokens", ("gather", "scatter", "index", "sort", "topk", "embedding")),
)
"""Kernels by words in their names; the rest is element by element or reductions."""


def make_program(spec: Any, rows: int, steps: int, seed: int, peak_rate: float) -> Any:
    """Assembled for one GPU in bf16, compiled; a step takes `rows` rows."""
    from lumina.assemble.assemble import assemble
    from lumina.plan.plan import Plan

    plan = Plan(
        spec=spec,
        device="cuda",
        compute_dtype="bfloat16",
        micro_batch_size=rows,
        global_batch_size=rows,
        steps=steps,
        warmup_steps=max(10, steps // 10),
        learning_rate=peak_rate,
        min_lr=peak_rate / 10,
        weight_decay=0.1,
        seed=seed,
        compile=True,
        attention="varlen",
        loss_chunk_bytes=2**30,
    )
    program = assemble(plan)
    program.model.train()
    return program


def step_batches(rows: Any) -> Any:
    """[B, S + 1] token rows as the data of a step."""
    import torch

    from lumina.batch import Batch
    from lumina.data.stream import StepBatches

    ids = torch.as_tensor(rows.astype("int64")).pin_memory()
    batch = Batch.from_rows(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
    tokens = ids.shape[0] * SEQUENCE
    return StepBatches([batch], tokens, tokens, {}, 0.0, [])


def measure(spec: Any, rows: Any) -> dict[str, Any]:
    """Counted operations, training speed, peak memory and a profile.

    Args:
        spec: a ModelSpec.
        rows: [N, S + 1] tokens, at least four batches of them.
    """
    import torch

    from lumina.plan.count import count_parameters
    from lumina.plan.flops import flops_per_token
    from lumina.train.step import train_step

    counted = executed_flops_per_token(spec)
    torch._dynamo.reset()
    program = make_program(spec, MICRO_BATCH, 1000, 0, 3e-4)
    data = [
        step_batches(rows[i * MICRO_BATCH : (i + 1) * MICRO_BATCH]) for i in range(4)
    ]
    for i in range(WARM_UP):
        train_step(program, data[i % 4], i)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(TIMED + 1)]
    marks[0].record()
    for i in range(TIMED):
        train_step(program, data[i % 4], WARM_UP + i)
        marks[i + 1].record()
    torch.cuda.synchronize()
    times = [marks[i].elapsed_time(marks[i + 1]) / 1e3 for i in range(TIMED)]
    peak = torch.cuda.max_memory_allocated() / 2**30
    counts = count_parameters(spec)
    result = {
        "parameters": counts.total,
        "active_parameters": counts.active,
        "flops_per_token": counted,
        "formula_flops_per_token": flops_per_token(spec),
        "tokens_per_second": MICRO_BATCH * SEQUENCE / statistics.median(times),
        "step_seconds": statistics.median(times),
        "step_seconds_all": times,
        "peak_gib": peak,
        "milliseconds": profile(lambda i: train_step(program, data[i % 4], 100 + i)),
    }
    program.close()
    return result


def profile(step: Any) -> dict[str, float]:
    """Milliseconds of GPU time a step by kind of kernel, and of the busiest ones."""
    import torch
    from torch.profiler import ProfilerActivity

    with torch.profiler.profile(
        activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]
    ) as seen:
        for i in range(PROFILED):
            step(i)
        torch.cuda.synchronize()
    spent: dict[str, float] = {}
    each: dict[str, float] = {}
    for event in seen.key_averages():
        if event.device_type != torch.autograd.DeviceType.CUDA:
            continue
        name = event.key.lower()
        kind = next(
            (k for k, words in KINDS if any(w in name for w in words)), "the rest"
        )
        milliseconds = event.self_device_time_total / 1e3 / PROFILED
        spent[kind] = spent.get(kind, 0.0) + milliseconds
        each[event.key[:80]] = milliseconds
    busiest = sorted(each.items(), key=lambda e: -e[1])[:40]
    return spent | {f"kernel: {name}": ms for name, ms in busiest}


def decode(network: Any, prompts: list[list[int]], new: int = 128) -> float:
    """Tokens a second over all rows, greedy, the prompts' own pass included."""
    import torch

    from lumina.infer.generate import Decoding
    from lumina.infer.sampling import Sampling

    torch.cuda.synchronize()
    start = time.perf_counter()
    decoding = Decoding(network, prompts, Sampling(0.0), max_new_tokens=new)
    made = sum(len(step) for step in decoding)
    torch.cuda.synchronize()
    return made / (time.perf_counter() - start)
