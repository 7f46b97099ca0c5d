"""Which gradient checkpointing a run has: what is tried, in which order, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lumina.errors import LuminaError
from lumina.model.spec import ModelSpec
from lumina.plan.checkpointing import AUTOMATIC, KEPT, decisions, runs_of
from lumina.plan.costs.layout import Layout
from lumina.plan.decisions import source_of
from lumina.plan.memory import estimate
from lumina.quantities import byte_size

if TYPE_CHECKING:
    from lumina.config import Config
    from lumina.plan.environment import Environment

ADAPTIVE = {"full": 0.85, "selective": 0.7, "none": 0.0}
"""Kind -> the part of the memory above which `adaptive` takes it, where that much would
be taken without recomputation."""


def ways_to_recompute(config: Config, spec: ModelSpec) -> list[dict[str, Any]]:
    """Fields of a Layout for everything that may be tried, the least recomputed first.

    Args:
        config: what was asked for; a kind that is named is the only one.
        spec: the shape.
    """
    asked = config.system.gradient_checkpointing
    if asked == "adaptive":
        asked = None
    if asked == "budget":
        return [
            {"gradient_checkpointing": asked, "block_checkpointing": kinds}
            for kinds in decisions(spec.num_layers)
        ]
    names: tuple[str, ...] = (asked,) if asked else AUTOMATIC
    if not asked and config.activations.activations_in != "device":
        names = AUTOMATIC[1:]  # what is kept whole does not leave the device
    if not asked and config.activations.feedforward_tile:
        names = tuple(name for name in names if name != "selective")
    return [{"gradient_checkpointing": name} for name in names]


def admitted(
    config: Config, machine: Environment, spec: ModelSpec, layouts: list[Layout]
) -> list[Layout]:
    """The layouts that the asked kind of checkpointing leaves to choose among.

    Args:
        config: the options.
        machine: what there is.
        spec: the shape.
        layouts: in the order in which they are tried.

    Raises:
        LuminaError: E002 where no layout holds as few activations as was asked for.
    """
    if config.system.gradient_checkpointing == "adaptive":
        return [
            one
            for one in layouts
            if one.gradient_checkpointing == _by_share(_without(spec, one), machine)
        ]
    most = config.activations.activation_budget
    if most is None:
        return layouts
    sizes = [_activations(estimate(spec, one)) for one in layouts]
    kept = [one for one, size in zip(layouts, sizes, strict=True) if size <= most]
    if not kept:
        raise LuminaError(
            "E002",
            f"activation_budget is {byte_size(most)}, and the activations take "
            f"{byte_size(min(sizes))} even where all is computed again",
            "give a larger --activation-budget, a smaller --batch-size or a shorter "
            "--seq-length",
        )
    return kept


def _without(spec: ModelSpec, layout: Layout) -> int:
    """The bound of a step that recomputes nothing."""
    return estimate(spec, replace(layout, gradient_checkpointing="none"))["bound"]


def _by_share(bound: int, machine: Environment) -> str:
    """The kind of `adaptive` for the memory that a step takes without recomputation."""
    share = bound / machine.memory_bytes
    return next(kind for kind, least in ADAPTIVE.items() if share > least)


def _activations(parts: Mapping[str, int]) -> int:
    """Bytes that are kept for the backward pass."""
    return parts["activations"] + parts["routed"]


def why_recomputed(config: Config, layout: Layout, room: str, taken: float) -> str:
    """The reason of a Plan's gradient checkpointing.

    Args:
        config: the options.
        layout: the one that was chosen.
        room: the memory that a choice may fill, in words.
        taken: part of the memory that the run would take without recomputation.
    """
    mode = layout.gradient_checkpointing
    if config.system.gradient_checkpointing == "adaptive":
        return f"without recomputation the run would take {taken:.0%} of the memory"
    if mode == "budget":
        kinds = runs_of(layout.block_checkpointing)
        return f"blocks, from the first: {kinds}; the least recomputed in {room}"
    if config.system.gradient_checkpointing:
        return source_of(config, "gradient_checkpointing")
    less = KEPT[KEPT.index(mode) - 1] if mode != KEPT[0] else ""
    return f"fits into {room}" + (f", {less} does not" if less else "")
