"""`lumina bench train`: tokens a second of a training, with what it rests on."""

from __future__ import annotations

import gc
import platform
import time
from collections.abc import Callable
from typing import Any

import torch

from lumina.observe.gpu_watch import GpuWatch
from lumina.plan.environment import Environment
from lumina.plan.flops import CONVENTION, flops_per_token
from lumina.plan.peak import peak_here
from lumina.plan.plan import Plan
from lumina.plan.speeds import arithmetic_of
from lumina.train.bench.timing import memory, spread, timed
from lumina.train.profiling.session import Session


def measure_training(
    session: Session,
    *,
    warm_up: int,
    steps: int,
    synthetic: bool,
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Warm up, time some steps, and say what they were.

    Args:
        session: what trains.
        warm_up: steps that do not count: they compile, and the allocator grows.
        steps: steps that are timed.
        synthetic: whether the rows are random, to be said in the result.
        stopped: asked between steps; once true, what was measured is given.

    Returns:
        Plain values: times of the steps, tokens a second, the model's part of the
        peak, memory, clocks, versions. `step` and what follows from it are None where
        no step was timed.
    """
    plan = session.plan
    losses: list[torch.Tensor] = []
    waited: list[float] = []

    def launch() -> None:
        batches, seconds = session.data()
        waited.append(seconds)
        session.step(batches)
        losses.append(session.metrics[0].detach())

    began = time.perf_counter()
    for _ in range(warm_up):
        if stopped():
            break
        launch()
    session.wait()
    warm = time.perf_counter() - began
    waited.clear()
    gc.collect()
    with GpuWatch(plan.device) as watch:
        seconds = timed(launch, steps, plan.device, stopped)
    return {
        "kind": "train",
        **facts_of(plan, session.environment),
        "rows": "random tokens" if synthetic else "data",
        "prepare_seconds": session.prepare_seconds,
        "warm_up": {"steps": warm_up, "seconds": warm},
        **figures(plan, session.environment, seconds),
        "data_wait_seconds": sum(waited),
        "memory": memory(plan.device),
        "gpu": watch.readings(),
        "losses": [float(loss) for loss in losses],
        "interrupted": stopped(),
    }


def figures(plan: Plan, machine: Environment, seconds: list[float]) -> dict[str, Any]:
    """What follows from the times of steps."""
    tokens = plan.global_batch_size * plan.spec.seq_length
    each = plan.flops_per_token or flops_per_token(plan.spec)
    peak = peak_here(plan, machine)
    found: dict[str, Any] = {
        "step_seconds": seconds,
        "step": spread(seconds) if seconds else None,
        "tokens_per_step": tokens,
        "tokens_per_second": None,
        "flops_per_second": None,
        "mfu": None,
        "mfu_convention": CONVENTION,
        "flops_per_token": each,
        "peak_flops": peak,
        "peak_is": peak_is(plan),
    }
    if seconds:
        rate = tokens / found["step"]["median"]
        found["tokens_per_second"] = rate
        found["flops_per_second"] = rate * each
        found["mfu"] = None if peak is None else rate * each / peak
    return found


def peak_is(plan: Plan) -> str:
    """Where the peak comes from, in words."""
    kind = arithmetic_of(plan)
    if plan.device == "cpu":
        return f"the rate of large {kind} products, measured on this processor"
    return f"the dense {kind} peak of the card's data sheet"


def facts_of(plan: Plan, machine: Environment) -> dict[str, Any]:
    """What was measured, and on what."""
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": machine.device_name,
        "threads": torch.get_num_threads() if plan.device == "cpu" else None,
        "python": platform.python_version(),
        "torch": machine.torch_version,
        "cuda": machine.cuda_version,
        "parameters": plan.parameters,
        "active_parameters": plan.active_parameters,
        "compute_dtype": plan.compute_dtype,
        "tf32": plan.tf32,
        "compile": plan.compile,
        "attention": plan.attention,
        "gradient_checkpointing": plan.gradient_checkpointing,
        "micro_batch_size": plan.micro_batch_size,
        "global_batch_size": plan.global_batch_size,
        "seq_length": plan.spec.seq_length,
        "optimizer": plan.optimizer,
        "plan": plan.to_dict(),
    }
