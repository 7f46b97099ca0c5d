"""The rate of a processor's matrix products, which no data sheet states: measured."""

from __future__ import annotations

import math
import time

from lumina.plan.measured_once import measured_once

SIDE = 1024
"""Rows and columns of the matrices that are multiplied."""


def product_rate(dtype: str, processor: str) -> float:
    """Operations a second of large products on this machine's processor.

    The first call measures for a fifth of a second and keeps the result in
    ``LUMINA_CACHE/products.json``.

    Args:
        dtype: "float32", "bfloat16" or "float16".
        processor: its name, under which the rate is kept.
    """
    import torch

    threads = torch.get_num_threads()
    key = f"{processor}, {dtype}, torch {torch.__version__}, {threads} threads"
    return measured_once("products.json", key, lambda: measured_rate(dtype))


def measured_rate(dtype: str, seconds: float = 0.2) -> float:
    """The quickest of the products that fit into the time: others only slow it."""
    import torch

    generator = torch.Generator().manual_seed(0)
    a, b = (
        torch.randn(SIDE, SIDE, generator=generator).to(getattr(torch, dtype))
        for _ in range(2)
    )
    quickest, until = math.inf, time.perf_counter() + seconds
    rounds = 0
    while rounds < 3 or time.perf_counter() < until:
        began = time.perf_counter()
        a @ b
        quickest = min(quickest, time.perf_counter() - began)
        rounds += 1
    return 2 * SIDE**3 / quickest
