"""Process-wide switches of torch that a Plan decided."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

from lumina.assemble.ranks import Ranks
from lumina.plan.environment import Environment
from lumina.plan.plan import Plan


def configure_torch(
    plan: Plan, ranks: Ranks, environment: Environment
) -> Callable[[], None]:
    """Process-wide switches that the Plan decided.

    Returns:
        What sets those of precision, determinism and memory back as they were.
    """
    before = torch.get_float32_matmul_precision()
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.set_float32_matmul_precision("high" if plan.tf32 else "highest")
    tried = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = plan.cudnn_benchmark
    # Even switching it off loads torch's compiler.
    if plan.deterministic != deterministic:
        torch.use_deterministic_algorithms(plan.deterministic)
    # torchrun sets the number of threads to one, asked or not.
    chosen = "OMP_NUM_THREADS" in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ
    if plan.device == "cpu" and not chosen:
        torch.set_num_threads(max(environment.cores // ranks.local_size, 1))

    if environment.capped:
        _limit_allocator(environment.memory_bytes)

    def restore() -> None:
        if environment.capped:
            _limit_allocator(None)
        torch.set_float32_matmul_precision(before)
        torch.backends.cudnn.benchmark = tried
        if plan.deterministic != deterministic:
            torch.use_deterministic_algorithms(deterministic)

    return restore


def _limit_allocator(size: int | None) -> None:
    """Let this process allocate this many bytes of its GPU; None: all of them."""
    device = torch.cuda.current_device()
    total = torch.cuda.get_device_properties(device).total_memory
    share = 1.0 if size is None else min(1.0, size / total)
    torch.cuda.set_per_process_memory_fraction(share, device)
