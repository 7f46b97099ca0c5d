"""Recomputing activations in the backward pass."""

from __future__ import annotations

from lumina.features.feature import Feature
from lumina.features.table import register

_RECOMPUTE = "lumina.assemble.checkpointing:recompute"

register(
    Feature(
        name="gradient_checkpointing_full",
        option="gradient_checkpointing",
        summary="keep only the input of every block, recompute the rest in backward",
        without="--gradient-checkpointing none",
        requested=lambda c: c.system.gradient_checkpointing == "full",
        refused=lambda c: c.system.gradient_checkpointing not in (None, "full"),
        active=lambda p: p.gradient_checkpointing == "full",
        switch_on=lambda p: p.replace(gradient_checkpointing="full"),
        fallback=lambda p, m: p.replace(gradient_checkpointing="none"),
        build=_RECOMPUTE,
    )
)
register(
    Feature(
        name="gradient_checkpointing_selective",
        option="gradient_checkpointing",
        summary="keep matrix products and attention, recompute elementwise work",
        without="--gradient-checkpointing none",
        requested=lambda c: c.system.gradient_checkpointing == "selective",
        refused=lambda c: c.system.gradient_checkpointing not in (None, "selective"),
        active=lambda p: p.gradient_checkpointing == "selective",
        switch_on=lambda p: p.replace(gradient_checkpointing="selective"),
        fallback=lambda p, m: p.replace(gradient_checkpointing="full"),
        build=_RECOMPUTE,
    )
)
