"""Experts where memory is short: what they take of it, and how many would fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lumina.model.spec import ModelSpec
from lumina.plan.costs.layout import Layout
from lumina.plan.count import count_parameters
from lumina.plan.memory import estimate
from lumina.quantities import byte_size, count


def experts_in_words(spec: ModelSpec) -> str:
    """What share of a model's parameters are experts; "" where there are none."""
    if spec.moe is None:
        return ""
    counts = count_parameters(spec)
    return (
        f"; {count(counts.experts)} of its {count(counts.total)} parameters are those "
        f"of {spec.moe.num_experts} experts, of which a token uses {spec.moe.top_k}"
    )


def fewer_experts(
    spec: ModelSpec, layout: Layout, fits: Callable[[int], bool]
) -> list[str]:
    """The most experts that memory holds, where some fewer would do.

    The number is halved, so that it stays one that groups and ranks divide.

    Args:
        spec: the model's shape.
        layout: the smallest one of those that may be taken.
        fits: whether this many bytes find room on a device.
    """
    if spec.moe is None or spec.moe.names:
        return []
    if layout.trainable not in (None, count_parameters(spec).total):
        return []  # some weights are frozen, by names that may be those of experts
    number = spec.moe.num_experts // 2
    while number >= max(2 * spec.moe.groups, spec.moe.top_k):
        smaller = replace(spec, moe=replace(spec.moe, num_experts=number))
        whole = replace(layout, trainable=count_parameters(smaller).total)
        need = estimate(smaller, whole)["bound"]
        if fits(need):
            return [
                f"--num-experts {number} with --batch-size {layout.micro_batch_size} "
                f"and --gradient-checkpointing {layout.gradient_checkpointing} needs "
                f"{byte_size(need)}"
            ]
        number //= 2
    return []
