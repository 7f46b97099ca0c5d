"""A floor for the time of a step: what it must compute and move, over the ceilings.

Every line says what it counts. It is a model: nothing overlaps, every tensor is read
and written once where a kernel could do it in one pass, and attention, whose kernels
are far from the products' rate, counts at that of the quickest version measured here.
"""

from __future__ import annotations

from typing import Any

import torch

from lumina.measure.bench.ceilings import Ceilings
from lumina.measure.bench.ops.measure import quickest
from lumina.measure.bench.ops.op import Shape, chosen_op
from lumina.plan.count import count_parameters
from lumina.plan.flops import attended_keys, flops_per_token
from lumina.plan.plan import Plan

ROUNDS = 5
"""Of the measurement of attention."""


def shape_of(plan: Plan) -> Shape:
    """The layer of a Plan, for the ops; a head is as wide as the model's is."""
    spec = plan.spec
    moe = spec.moe
    return Shape(
        rows=plan.micro_batch_size,
        length=spec.seq_length,
        hidden=spec.num_heads * spec.head_dim,
        heads=spec.num_heads,
        kv_heads=spec.num_kv_heads,
        ffn=moe.intermediate_size * moe.top_k if moe else spec.intermediate_size,
        vocabulary=spec.vocab_size,
        experts=moe.num_experts if moe else 8,
        top_k=moe.top_k if moe else 2,
    )


def floor_of(plan: Plan, ceilings: Ceilings) -> list[dict[str, Any]]:
    """The parts of a step with their operations, bytes and least seconds.

    Args:
        plan: of the training.
        ceilings: of its device in its compute type.
    """
    spec = plan.spec
    counts = count_parameters(spec)
    tokens = plan.global_batch_size * spec.seq_length
    size = 2 if plan.compute_dtype in ("bfloat16", "float16") else 4
    width = spec.num_heads * (spec.head_dim + spec.value_dim) / 2
    attending = 12 * spec.num_layers * width * attended_keys(spec) * tokens
    whole = flops_per_token(spec, counts) * tokens
    products = max(whole - attending, 0.0)
    lines = [
        _line(
            ceilings, "matrix products", products, 0.0,
            "what the MFU counts, less attention: 6 for each parameter and token",
        ),
        _attention(plan, min(attending, whole)),
        _optimizer(plan, ceilings, size),
        _line(
            ceilings, "norms and residuals", 0.0,
            tokens * spec.hidden_size * size * (2 * spec.num_layers + 1) * (4 + 5),
            "each norm with its residual: forward reads two and writes two tensors, "
            "backward reads three and writes two",
        ),
        _line(
            ceilings, "SwiGLU", 0.0,
            tokens * shape_of(plan).ffn * size * spec.num_layers * (3 + 5),
            "forward reads gate and up and writes one; backward reads three and writes "
            "two",
        ),
        _line(
            ceilings, "logits", 0.0, tokens * spec.vocab_size * 4 * size,
            "written and read in the forward pass, their gradient written and read, in "
            "the compute type",
        ),
    ]  # fmt: skip
    return lines


def _line(
    ceilings: Ceilings, what: str, operations: float, moved: float, why: str
) -> dict[str, Any]:
    seconds = ceilings.floor(operations, moved)
    return {
        "what": what,
        "operations": operations,
        "bytes": moved,
        "seconds": seconds,
        "why": why,
    }


def _attention(plan: Plan, operations: float) -> dict[str, Any]:
    """Every layer and micro-batch at the time of one, measured."""
    dtype = getattr(torch, plan.compute_dtype)
    version, seconds = quickest(
        chosen_op("attention"), shape_of(plan), plan.device, dtype, ROUNDS
    )
    times = plan.spec.num_layers * plan.grad_accum
    return {
        "what": "attention",
        "operations": operations,
        "bytes": 0.0,
        "seconds": seconds * times,
        "why": f"{times} times forward and backward of {version}, the quickest version "
        "measured here on whole rows",
    }


def _optimizer(plan: Plan, ceilings: Ceilings, size: int) -> dict[str, Any]:
    """Masters and states read and written, gradients read, weights written."""
    states = plan.memory.get("optimizer", 0) or 8 * plan.parameters
    masters = 4 * plan.parameters
    copies = size * plan.parameters if size < 4 else 0
    moved = 2.0 * (states + masters) + size * plan.parameters + copies
    return _line(
        ceilings,
        "optimizer",
        0.0,
        moved,
        "masters and states read and written, gradients read, and weights of the "
        "compute type written",
    )
