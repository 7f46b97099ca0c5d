"""Weights of blocks that live in host memory or on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lumina.features.crossing import Crossing
from lumina.features.feature import Exclusion, Feature
from lumina.features.needs import Need, memory_beside, not_apple
from lumina.features.table import register
from lumina.features.trial import Trial

_SHARED = "several processes share or compare all weights"
_AGAIN = "its blocks are passed several times"


def _memory(spec: Any, layout: Any) -> Mapping[str, int]:
    """On the device are blocks in use and on their way, and gradients that leave.

    One block fewer is there while the loss is computed.
    """
    found = layout.streamed(spec)
    return {
        "weights": found.here - found.largest - found.weights,
        "working": found.largest,
        "gradients": min(0, found.gradients_here - found.gradients),
        "optimizer": found.step,
    }


def _leaves(spec: Any, layout: Any) -> Mapping[str, int]:
    """Blocks are not there in the optimizer's step, nor gradients that have left."""
    found = layout.streamed(spec)
    return {
        "weights": found.here - found.largest,
        "gradients": found.gradients_here,
    }


def _elsewhere(place: str) -> Callable[[Any, Any], Mapping[str, int]]:
    def bytes_of(spec: Any, layout: Any) -> Mapping[str, int]:
        streamed = layout.streamed(spec)
        found = {place: streamed.whole}
        if place == "disk" and layout.device != "cpu":
            found["host"] = streamed.largest  # it passes through the host
        # Gradients leave to memory of the host whatever the weights do.
        beside = streamed.gradients + streamed.staging
        return found | {"host": found.get("host", 0) + beside} if beside else found

    return bytes_of


def _crosses(place: str) -> Callable[[Any, Any], Mapping[str, Crossing]]:
    """Weights come for each forward and backward; where they train, gradients leave.

    A step brings the gradients back twice, for their norm and for the update, and takes
    the new weights home. Of float32 weights, which are their own masters, it brings the
    old ones, too.
    """

    def crossing(spec: Any, layout: Any) -> Mapping[str, Crossing]:
        streamed = layout.streamed(spec)
        old = streamed.trained if layout.compute_dtype == "float32" else 0
        weights = Crossing(
            brought=streamed.brought,
            brought_after=old,
            taken_after=streamed.trained,
        )
        leave = Crossing(taken=streamed.leaves, brought_after=2 * streamed.gradients)
        if place == "host":
            return {place: weights + leave}
        return {place: weights, "host": leave}

    return crossing


def _declare(place: str, summary: str, needs: Need) -> None:
    register(
        Feature(
            name=f"weights_{place}",
            option="weights_in",
            summary=summary,
            without="--weights-in device",
            requested=lambda c: c.offload.weights_in == place,
            active=lambda p: p.weights_in == place,
            switch_on=lambda p: p.replace(weights_in=place),
            needs=needs,
            excludes=(
                Exclusion("mixture_of_recursions", _AGAIN),
                Exclusion("hierarchical_reasoning", _AGAIN),
                Exclusion("registered_backbone", "what passes its blocks is not known"),
                Exclusion(
                    "preserve_base_outputs", "a second model has its own frozen weights"
                ),
                Exclusion("cuda_graphs", "the host moves data inside the step"),
                Exclusion("ddp", _SHARED),
                Exclusion("zero1", _SHARED),
                Exclusion("zero2", _SHARED),
                Exclusion("fsdp2", "weights are divided over the processes already"),
            ),
            memory=_memory,
            leaves=_leaves,
            elsewhere=_elsewhere(place),
            crosses=_crosses(place),
            build="lumina.assemble.streamed.blocks:stream",
            trial=Trial(
                {"weights_in": place},
                beside={"freeze": ("backbone.blocks.*",)},
                calls=("lumina.assemble.streamed.blocks:StreamedBlocks.use",),
            ),
        )
    )


_declare(
    "host",
    "weights of blocks in pinned host memory, which come block by block",
    memory_beside("the weights"),
)
_declare(
    "disk",
    "weights of blocks in files, which come block by block",
    not_apple,
)
