"""Floating-point operations of a training step, counted as they are executed.

Torch's counter sees every product that is dispatched. Three things it is told here:
causal kernels skip the half of the scores nobody may see (it would count all); grouped
products of experts; products whose output has another type than their inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def executed_flops_per_token(spec: Any, rows: int = 2) -> float:
    """Forward, loss and backward of one uncompiled step on the GPU, per token.

    Args:
        spec: a ModelSpec.
        rows: of `spec.seq_length` random tokens.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from lumina.batch import Batch
    from lumina.model.build import build_network

    network = build_network(spec, attention="varlen", device="cuda").train()
    network.to(torch.bfloat16)
    network.backbone.compute_dtype = torch.bfloat16
    ids = torch.randint(0, spec.vocab_size, (rows, spec.seq_length + 1), device="cuda")
    batch = Batch.from_rows(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
    with FlopCounterMode(display=False, custom_mapping=formulas()) as counter:
        losses, aux = network(batch)
        total = losses.loss_sum
        for value in aux.values():
            if value.requires_grad:
                total = total + value.sum()
        total.backward()
    return counter.get_total_flops() / (rows * spec.seq_length)


def formulas() -> dict[Any, Any]:
    """Operator -> operations, for those torch counts otherwise or not at all."""
    import torch

    aten = torch.ops.aten
    return {
        aten.mm: _product,
        aten.addmm: _product_added,
        aten._grouped_mm: _grouped,
        aten._scaled_dot_product_flash_attention: _attention(4),
        aten._scaled_dot_product_cudnn_attention: _attention(6),
        aten._scaled_dot_product_flash_attention_backward: _attention_backward(11),
        aten._scaled_dot_product_cudnn_attention_backward: _attention_backward(14),
    }


def _product(a: Any, b: Any, *_: Any, **__: Any) -> int:
    return 2 * a[0] * a[1] * b[1]


def _product_added(_: Any, a: Any, b: Any, *__: Any, **___: Any) -> int:
    return 2 * a[0] * a[1] * b[1]


def _grouped(a: Any, b: Any, *_: Any, **__: Any) -> int:
    """[N, D] x [E, D, M], or [D, N] x [N, M] by groups of N (the weights' gradient)."""
    return 2 * a[0] * a[1] * b[-1]


def _scores(q: Any, k: Any, causal: bool) -> float:
    """Scores that are computed."""
    batch, heads, queries, _ = q
    keys = k[2]
    share = (queries + 1) / (2 * queries) if causal and queries == keys else 1.0
    return float(batch * heads * queries * keys * share)


def _attention(causal: int) -> Callable[..., int]:
    """Of an operator whose argument at place `causal` says so."""

    def formula(*args: Any, **_: Any) -> int:
        q, k, v = args[:3]
        scores = _scores(q, k, len(args) > causal and args[causal] is True)
        return math.floor(2 * scores * (q[3] + v[3]))

    return formula


def _attention_backward(causal: int) -> Callable[..., int]:
    """The scores once more, and the gradients of scores, q, k and v."""

    def formula(*args: Any, **_: Any) -> int:
        _, q, k, v = args[:4]
        scores = _scores(q, k, args[causal] is True)
        return math.floor(2 * scores * (3 * q[3] + 2 * v[3]))

    return formula
