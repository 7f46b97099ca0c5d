"""Whether bfloat16 is worth training in on this processor: measured once, and kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from typing import Any

from lumina.plan.measured_once import measured_once

INSTRUCTIONS = ("amx_bf16", "avx512_bf16")
"""Extensions without which bfloat16 products are only emulated."""

WORTH = 1.3
"""bfloat16 rounds, so it must be faster than float32 by this factor to be chosen. On a
busy machine the measurement itself wanders by up to 0.3; tile instructions (AMX) are
faster by far more than that, vector instructions alone hardly at all."""

TOKENS, WIDTH, INNER, HEADS = 512, 256, 768, 4


def bf16_speedup(features: Collection[str], cpu_name: str) -> float | None:
    """Float32 time over bfloat16 time of a block's training; None without instructions.

    The first call on a machine measures, for about a second, and keeps the result in
    ``LUMINA_CACHE/bf16.json`` under the processor, the version of torch and the number
    of threads. All later calls read it there: so the plan, the
    doctor and the demonstration agree, today and tomorrow.

    Args:
        features: the processor's (`lumina.plan.environment.cpu_features`).
        cpu_name: the processor.
    """
    import torch

    if not set(INSTRUCTIONS) & set(features):
        return None
    key = f"{cpu_name}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    return measured_once("bf16.json", key, lambda: round(measured_speedup(), 2))


def worth(speedup: float | None) -> bool:
    """Whether `precision auto` takes bfloat16."""
    return speedup is not None and speedup >= WORTH


def measured_speedup(seconds: float = 0.8) -> float:
    """Float32 time over bfloat16 time of a small transformer block, forth and back.

    The two take turns, and the quickest of each are compared: other programs can only
    slow a pass down.

    Args:
        seconds: how long to measure; each type is timed three times at least.
    """
    import torch

    passes = [_block(torch.float32), _block(torch.bfloat16)]
    quickest = [math.inf, math.inf]
    for one in passes:  # the first pass sets the libraries up
        one()
    until, rounds = time.perf_counter() + seconds, 0
    while rounds < 3 or time.perf_counter() < until:
        for i, one in enumerate(passes):
            began = time.perf_counter()
            one()
            quickest[i] = min(quickest[i], time.perf_counter() - began)
        rounds += 1
    return quickest[0] / quickest[1]


def _block(dtype: Any) -> Callable[[], None]:
    """Forward and backward of attention and a gated feed-forward in `dtype`."""
    import torch
    from torch.nn import functional

    generator = torch.Generator().manual_seed(0)

    def weight(*shape: int) -> Any:
        values = torch.randn(shape, generator=generator) / math.sqrt(shape[-1])
        return values.to(dtype).requires_grad_()

    qkv, out = weight(3 * WIDTH, WIDTH), weight(WIDTH, WIDTH)
    gate_up, down = weight(2 * INNER, WIDTH), weight(WIDTH, INNER)
    scale = torch.ones(WIDTH, dtype=dtype, requires_grad=True)
    x = torch.randn(TOKENS, WIDTH, generator=generator).to(dtype)
    leaves = [qkv, out, gate_up, down, scale]

    def norm(values: Any) -> Any:
        return functional.rms_norm(values, (WIDTH,), scale)

    def run() -> None:
        query, key, value = (
            part.view(TOKENS, HEADS, -1).transpose(0, 1)
            for part in functional.linear(norm(x), qkv).chunk(3, dim=-1)
        )
        mixed = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True
        )
        mixed = mixed.transpose(0, 1).reshape(TOKENS, WIDTH)
        hidden = x + functional.linear(mixed, out)
        gate, up = functional.linear(norm(hidden), gate_up).chunk(2, dim=-1)
        hidden = hidden + functional.linear(functional.silu(gate) * up, down)
        torch.autograd.grad(hidden.float().square().mean(), leaves)

    return run
