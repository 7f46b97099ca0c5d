"""How several processes share the work."""

from __future__ import annotations

from lumina.features.feature import Feature
from lumina.features.table import register

register(
    Feature(
        name="ddp",
        option="parallel",
        summary="every process holds the model, gradients are averaged",
        without="--parallel auto",
        change_cost="restart",
        requested=lambda c: c.system.parallel == "ddp",
        refused=lambda c: c.system.parallel not in ("auto", "ddp"),
        active=lambda p: p.parallel == "ddp",
        fallback=lambda p, m: p.replace(parallel="fsdp2"),
    )
)
register(
    Feature(
        name="fsdp2",
        option="parallel",
        summary="weights, gradients and moments are divided over the processes",
        without="--parallel auto",
        change_cost="restart",
        requested=lambda c: c.system.parallel == "fsdp2",
        refused=lambda c: c.system.parallel not in ("auto", "fsdp2"),
        active=lambda p: p.parallel == "fsdp2",
        fallback=lambda p, m: p.replace(parallel="ddp"),
    )
)
