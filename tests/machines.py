"""Machines to plan for, as data: no test here needs their hardware."""

from __future__ import annotations

from typing import Any

from lumina.config import Config
from lumina.plan.environment import Environment
from lumina.plan.hardware import DTYPES, peak_flops
from lumina.plan.make import make_plan
from lumina.plan.plan import Plan


def cpu(**changes: Any) -> Environment:
    values: dict[str, Any] = {
        "device": "cpu",
        "device_name": "a processor",
        "device_count": 1,
        "memory_bytes": 16 * 2**30,
        "host_memory_bytes": 16 * 2**30,
        "cores": 2,
        "cpu_name": "a processor",
        "torch_version": "2.13.0",
        "peak_flops": dict.fromkeys(DTYPES),
    }
    return Environment(**(values | changes))


def gpu(
    name: str = "NVIDIA H200",
    gib: float = 140,
    capability: tuple[int, int] = (9, 0),
    **changes: Any,
) -> Environment:
    values: dict[str, Any] = {
        "device": "cuda",
        "device_name": name,
        "memory_bytes": int(gib * 2**30),
        "capability": capability,
        "bf16": capability >= (8, 0),
        "compiler": True,
        "compiler_detail": "triton, gcc",
        "peak_flops": {kind: peak_flops(name, kind) for kind in DTYPES},
    }
    return cpu(**(values | changes))


def plan_for(config: Config, machine: Environment | None = None, **known: Any) -> Plan:
    """A plan for data of 1,000 rows unless told."""
    known = {"tokenizer_vocab_size": None, "rows_per_epoch": 1000} | known
    return make_plan(config, machine or cpu(), **known)
