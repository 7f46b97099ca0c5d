"""When and how processes exchange gradients and weights, and what may be tried."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lumina.parallel.table import chosen_way
from lumina.parallel.way import Messages, Way
from lumina.plan.compressing import asked_rank, compresses
from lumina.plan.decisions import source_of

if TYPE_CHECKING:
    from lumina.config import Config
    from lumina.plan.batching import Split
    from lumina.plan.costs.layout import Layout
    from lumina.plan.plan import Plan

MESSAGE_OPTIONS = ("overlap_comm", "reduce_bucket_size", "allgather_bucket_size")
"""Options of a way that forms messages of its own."""

PERSISTENT = "stage3_param_persistence_threshold"
"""The option of a way that keeps small parameters whole."""

EACH = "micro_batch"
"""Of `gradients_reduced`: after every backward pass."""


def messages_of(plan: Plan) -> Messages:
    """How a Plan's ranks send gradients and weights."""
    return Messages(
        reduced=plan.reduce_bucket_size,
        gathered=plan.allgather_bucket_size,
        overlap=plan.overlap_comm,
        every_pass=plan.gradients_reduced == EACH,
        persistent=plan.stage3_param_persistence_threshold,
        low_rank=plan.gradient_compression_rank if compresses(plan) else 0,
        low_rank_from=plan.gradient_compression_start,
    )


def asked_of_exchange(config: Config) -> dict[str, Any]:
    """Fields of `Conditions`: what a way that cannot do it refuses."""
    fields = type(config.exchange).model_fields
    return {
        "messages_asked": tuple(
            name for name in MESSAGE_OPTIONS if config.get(name) != fields[name].default
        ),
        "reduces_each": config.exchange.gradients_reduced == EACH,
        "low_rank": asked_rank(config),
        "persistent": config.get(PERSISTENT),
    }


def tried_layouts(
    base: Layout,
    ways: Sequence[type[Way]],
    checkpointing: Iterable[dict[str, Any]],
    splits: Iterable[Split],
    reduced: str,
) -> list[Layout]:
    """What may be done, in the order tried.

    Where states or weights are divided, to gather weights costs less than to compute
    activations again, and to reduce gradients more often less than both.

    Args:
        base: what is decided already.
        ways: of sharing the work.
        checkpointing: fields of a Layout, the least recomputed first.
        splits: of a rank's rows into forwards, large ones first.
        reduced: what was asked of `gradients_reduced`.
    """
    alike = [[way] for way in ways if not way.divides_states]
    alike.append([way for way in ways if way.divides_states])
    again, divided = list(checkpointing), list(splits)
    return [
        replace(layout, messages=replace(base.messages, every_pass=each))
        for group in alike
        for recomputed in again
        for way in group
        for split in divided
        for layout in [
            replace(
                base,
                **recomputed,
                parallel=way.name,
                micro_batch_size=split.micro_batch_size,
                grad_accum=split.grad_accum,
            )
        ]
        for each in _reductions(way, layout, reduced)
    ]


def _reductions(way: type[Way], layout: Layout, asked: str) -> list[bool]:
    """Whether gradients may be reduced in every pass, in the order tried."""
    if not (way.sharded and layout.accumulates):
        return [False]
    return [False, True] if asked == "auto" else [asked == EACH]


def when_reduced(config: Config, layout: Layout, room: str) -> tuple[str, str]:
    """`Plan.gradients_reduced` and its reason.

    Args:
        config: the options.
        layout: the one that was chosen.
        room: the memory that a choice may fill, in words.
    """
    each = layout.messages.every_pass
    if config.exchange.gradients_reduced != "auto":
        why = source_of(config, "gradients_reduced")
    elif not (chosen_way(layout.parallel).sharded and layout.accumulates):
        why = "there is one time for it"
    elif each:
        why = f"whole gradients of every micro-batch do not fit into {room}"
    else:
        why = f"whole gradients fit into {room}, and less is sent"
    return (EACH if each else "step"), why
