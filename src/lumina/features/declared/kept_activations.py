"""Activations that are kept in few bits, in host memory or on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lumina.features.crossing import Crossing
from lumina.features.feature import Exclusion, Feature
from lumina.features.needs import Need, memory_beside, not_apple
from lumina.features.table import register
from lumina.features.trial import Tolerance, Trial

_KEEP = "lumina.assemble.kept.hooks:keep"

HERE = 2
"""Inputs of blocks that leave and are on the device all the same: one that is copied,
and the one that the next block to go back needs."""

_REASONERS = (
    Exclusion("hierarchical_reasoning", "its blocks are passed in cycles"),
    Exclusion("registered_backbone", "what passes its blocks is not known"),
)


CODED = Tolerance(gradients=0.05, learned=0.02)
"""Of gradients that are computed from activations in 8 bits."""


def _memory(spec: Any, layout: Any) -> Mapping[str, int]:
    count, size = layout.inputs_away(spec)
    return {"activations": -size * max(0, count - HERE)}


def _away(place: str) -> Callable[[Any, Any], Mapping[str, int]]:
    def elsewhere(spec: Any, layout: Any) -> Mapping[str, int]:
        count, size = layout.inputs_away(spec)
        found = {place: count * size}
        if place == "disk" and layout.device != "cpu":
            found["host"] = min(count, HERE + 1) * size  # it passes through the host
        return found

    return elsewhere


def _crosses(place: str) -> Callable[[Any, Any], Mapping[str, Crossing]]:
    """The input of each block leaves once and comes back once for each forward."""

    def crossing(spec: Any, layout: Any) -> Mapping[str, Crossing]:
        count, size = layout.inputs_away(spec)
        passed = layout.grad_accum * count * size
        return {place: Crossing(brought=passed, taken=passed)}

    return crossing


def _declare(place: str, summary: str, needs: Need) -> None:
    register(
        Feature(
            name=f"activations_{place}",
            option="activations_in",
            summary=summary,
            without="--activations-in device",
            requested=lambda c: c.activations.activations_in == place,
            active=lambda p: p.activations_in == place,
            switch_on=lambda p: p.replace(activations_in=place),
            needs=needs,
            excludes=_REASONERS,
            memory=_memory,
            elsewhere=_away(place),
            crosses=_crosses(place),
            build=_KEEP,
            trial=Trial(
                {"activations_in": place},
                beside={"gradient_checkpointing": "full"},
                calls=("lumina.assemble.kept.beside:Beside.put",),
            ),
        )
    )


_declare(
    "host",
    "keep the inputs of blocks that are computed again in pinned host memory",
    memory_beside("activations"),
)
_declare(
    "disk", "keep the inputs of blocks that are computed again in files", not_apple
)
register(
    Feature(
        name="activation_bits",
        option="activation_bits",
        summary="keep activations for the backward pass in 8 or 4 bits",
        without="no --activation-bits",
        requested=lambda c: c.activations.activation_bits is not None,
        active=lambda p: p.activation_bits > 0,
        switch_on=lambda p: p.replace(activation_bits=8),
        excludes=_REASONERS,
        build=_KEEP,
        trial=Trial(
            {"activation_bits": 8},
            tolerance=CODED,
            calls=("lumina.assemble.kept.coded:coded",),
        ),
    )
)


def _kinds(plan: Any) -> tuple[str, ...]:
    return tuple(plan.block_checkpointing) or (plan.gradient_checkpointing,)


def _inside(plan: Any) -> bool:
    return plan.activation_bits > 0 and "none" in _kinds(plan)


def _inputs(plan: Any) -> bool:
    return plan.activation_bits > 0 and set(_kinds(plan)) != {"none"}


_CHOICES = "rounded inputs may change {} when a block is computed again"

register(
    Feature(
        name="coded_inputs",
        option="activation_bits",
        summary="the inputs of blocks that are computed again are in 8 or 4 bits",
        without="--gradient-checkpointing none",
        requested=lambda c: (
            c.activations.activation_bits is not None
            and c.system.gradient_checkpointing not in (None, "none", "adaptive")
        ),
        active=_inputs,
        switch_on=lambda p: p.replace(activation_bits=8),
        excludes=(
            Exclusion("mixture_of_experts", _CHOICES.format("the choice of experts")),
            Exclusion("mixture_of_depths", _CHOICES.format("the choice of tokens")),
            Exclusion("mixture_of_recursions", _CHOICES.format("the choice of tokens")),
        ),
        trial=Trial(
            {"activation_bits": 8, "gradient_checkpointing": "full"},
            tolerance=CODED,
            calls=("lumina.assemble.kept.coded:coded",),
        ),
    )
)


register(
    Feature(
        name="coded_activations",
        option="activation_bits",
        summary="what blocks keep that are not computed again is in 8 or 4 bits, too",
        without="--gradient-checkpointing full",
        requested=lambda c: (
            c.activations.activation_bits is not None
            and c.system.gradient_checkpointing in (None, "none", "budget", "adaptive")
        ),
        active=_inside,
        switch_on=lambda p: p.replace(activation_bits=8),
        excludes=(
            Exclusion("compile", "compiled blocks keep casts of weights as well"),
            Exclusion("fsdp2", "blocks keep gathered weights as well"),
            Exclusion("zero2", "blocks keep gathered weights as well"),
        ),
        trial=Trial(
            {"activation_bits": 8, "gradient_checkpointing": "none"},
            tolerance=CODED,
            calls=("lumina.assemble.kept.coded:coded",),
        ),
    )
)
