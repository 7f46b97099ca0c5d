"""Optimizer states that live in host memory or on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lumina.features.crossing import Crossing
from lumina.features.feature import Feature
from lumina.features.needs import Need, memory_beside, not_apple
from lumina.features.table import register
from lumina.features.trial import Trial


def _beside(spec: Any, layout: Any) -> tuple[int, int]:
    """Bytes of states and of masters that live beside the device."""
    masters = layout.masters_here(spec) if layout.masters_beside else 0
    return layout.states_here(spec), masters


def _memory(spec: Any, layout: Any) -> Mapping[str, int]:
    """On the device are only the pages that a step works on."""
    states, masters = _beside(spec, layout)
    return {"optimizer": layout.pages_here(spec) - states, "master_weights": -masters}


def _on_host(spec: Any, layout: Any) -> Mapping[str, int]:
    return {"host": sum(_beside(spec, layout))}


def _on_disk(spec: Any, layout: Any) -> Mapping[str, int]:
    """The files, and for a GPU the pinned memory that pages pass through."""
    whole = sum(_beside(spec, layout))
    staging = 0 if layout.device == "cpu" else layout.pages_here(spec)
    return {"disk": whole, "host": staging}


def _crosses(place: str) -> Callable[[Any, Any], Mapping[str, Crossing]]:
    """All states and masters come and go once, in the backward pass or after it."""

    def crossing(spec: Any, layout: Any) -> Mapping[str, Crossing]:
        size = sum(_beside(spec, layout))
        if layout.updates_early:
            return {place: Crossing(brought=size, taken=size)}
        return {place: Crossing(brought_after=size, taken_after=size)}

    return crossing


def _declare(
    place: str,
    summary: str,
    needs: Need,
    elsewhere: Callable[[Any, Any], Mapping[str, int]],
) -> None:
    register(
        Feature(
            name=f"optimizer_states_{place}",
            option="optimizer_states_in",
            summary=summary,
            without="--optimizer-states-in device",
            requested=lambda c: c.offload.optimizer_states_in == place,
            active=lambda p: p.optimizer_states_in == place,
            switch_on=lambda p: p.replace(optimizer_states_in=place),
            needs=needs,
            memory=_memory,
            elsewhere=elsewhere,
            crosses=_crosses(place),
            trial=Trial(
                {"optimizer_states_in": place},
                calls=("lumina.optim.paging.optimizer:Paged.step",),
            ),
        )
    )


_declare(
    "host",
    "keep the optimizer's states in pinned host memory, page them in for a step",
    memory_beside("the states"),
    _on_host,
)
_declare(
    "disk",
    "keep the optimizer's states in files, page them in for a step",
    not_apple,
    _on_disk,
)
