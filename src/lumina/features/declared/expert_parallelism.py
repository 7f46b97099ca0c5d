"""Routed experts divided over processes."""

from __future__ import annotations

import math
from typing import Any

from lumina.features.feature import Exclusion, Feature
from lumina.features.table import register
from lumina.features.trial import Trial

ADAMW = 8.0
"""Bytes that AdamW keeps for a parameter."""


def _requested(config: Any) -> bool:
    return bool(config.exchange.expert_parallel_size not in ("auto", "1"))


def _bytes(spec: Any, layout: Any) -> dict[str, int]:
    """What a process saves of experts that others hold, and rows on their way.

    Rows travel in the compute type: those that leave and those that come are there
    together. A process may get more of them than it sends; that is a matter of the
    router, and is not counted. Where it is not certain that something is saved (states
    of frozen experts, casts that recomputation frees), nothing is taken away.
    """
    if spec.moe is None or layout.expert_ranks == 1:
        return {}
    per_expert = 3 * spec.hidden_size * spec.moe.intermediate_size
    experts = len(spec.moe.layers) * spec.moe.num_experts * per_expert
    away = experts - experts // layout.expert_ranks
    half = layout.compute_dtype != "float32"
    casts = 2 * away if layout.gradient_checkpointing == "none" else 0
    states = layout.optimizer_states[0]
    if states != ADAMW:  # of all tensors on average; orthogonal updates keep 4 bytes
        states = min(states, 4.0)
    trains = 0 if layout.freeze else away
    rows = layout.micro_batch_size * spec.seq_length * spec.moe.top_k
    return {
        "weights": -casts if half else -4 * away,
        "master_weights": -4 * away if half else 0,
        "gradients": -4 * trains,
        "optimizer": -math.floor(states * trains),
        "communication": 2 * rows * spec.hidden_size * (2 if half else 4),
    }


register(
    Feature(
        name="expert_parallelism",
        option="expert_parallel_size",
        summary="each process holds a part of the experts, and rows travel to them",
        without="--expert-parallel-size 1",
        change_cost="restart",
        requested=_requested,
        refused=lambda c: c.exchange.expert_parallel_size == "1",
        active=lambda plan: plan.expert_parallel_size > 1,
        fallback=lambda plan, machine: plan.replace(expert_parallel_size=1),
        memory=_bytes,
        excludes=(
            Exclusion(
                "compile",
                "how many rows travel is known while a block runs, not before",
                "use --no-compile",
            ),
            Exclusion(
                "cuda_graphs",
                "how many rows travel is known while a step runs, not before",
            ),
            Exclusion(
                "tiled_feedforward",
                "rows would travel tile by tile, and again in backward",
                "use --feedforward-tile 0",
            ),
            Exclusion(
                "mixture_of_recursions",
                "processes may pass through their layers another number of times",
            ),
            Exclusion(
                "hierarchical_reasoning",
                "processes may pass through their layers another number of times",
            ),
            Exclusion("named_expert", "one expert trains, on one process"),
            Exclusion("weights_host", "experts would leave as whole blocks"),
            Exclusion("weights_disk", "experts would leave as whole blocks"),
            Exclusion("adapters", "adapters of experts are not divided"),
            Exclusion("rounded_training", "experts are rounded whole"),
            Exclusion("fp8_experts", "rows would travel in another type"),
            Exclusion(
                "preserve_base_outputs", "the base model's experts are not divided"
            ),
        ),
        trial=Trial(
            {"parallel": "ddp", "expert_parallel_size": "2", "batch_size": 2},
            beside={
                "use_moe": True,
                "num_experts": 4,
                "moe_top_k": 2,
                "moe_intermediate_size": 32,
                "compile": False,
            },
            ranks=2,
            calls=("lumina.ops.moe.parted:rows_across",),
            figures=("ranks",),
            redraws=True,
        ),
    )
)
