"""How fast the run was, and what it took of the machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lumina.observe.report.chart import Chart, chart, line
from lumina.observe.report.metrics import Metrics

TITLE = "Speed and memory"
PLACE = 30


def charts(metrics: Metrics, plan: Mapping[str, Any]) -> Iterator[Chart | None]:
    """Throughput, what it is of the hardware's peak, time, and memory."""
    yield chart(
        "Tokens per second", "rate", [line(metrics, "tokens_per_second", "rate")]
    )
    yield chart("Model FLOPs utilisation", "share", [line(metrics, "mfu", "MFU")])
    yield chart(
        "Memory",
        "bytes",
        [
            line(metrics, "memory_allocated_bytes", "in use", smoothed=False),
            line(metrics, "memory_peak_bytes", "highest so far", smoothed=False),
        ],
        "Of the first process. On a CPU it is the whole process, Python included.",
    )
    yield chart(
        "Time of a step",
        "seconds",
        [
            line(metrics, "step_seconds", "whole step"),
            line(metrics, "data_wait_seconds", "waiting for data"),
        ],
    )
    parts = ("forward_time", "backward_time", "optimizer_time")
    yield chart(
        "Parts of a step",
        "seconds",
        [
            line(metrics, key, key.removesuffix("_time"), smoothed=False)
            for key in parts
        ],
    )
    yield chart(
        "Share of the machine in use",
        "share",
        [
            line(metrics, f"{key}_utilization", key.replace("_", " "), smoothed=False)
            for key in ("gpu", "gpu_memory_bandwidth", "cpu", "memory", "host_memory")
        ],
    )
