"""Gradients exchanged as products of narrow matrices."""

from __future__ import annotations

from lumina.features.feature import Exclusion, Feature
from lumina.features.table import register
from lumina.features.trial import Trial

_PARTS = "each process has the gradients of a part of the weights only"

register(
    Feature(
        name="gradient_compression",
        option="gradient_compression",
        summary="exchange gradients as products of narrow matrices (PowerSGD)",
        without="--gradient-compression none",
        change_cost="restart",
        requested=lambda c: c.exchange.gradient_compression != "none",
        active=lambda p: p.gradient_compression != "none",
        excludes=(
            Exclusion("zero1", _PARTS, "use --parallel ddp"),
            Exclusion("zero2", _PARTS, "use --parallel ddp"),
            Exclusion("fsdp2", _PARTS, "use --parallel ddp"),
            Exclusion("independent", "it exchanges no gradients", "use --parallel ddp"),
        ),
        memory=lambda spec, layout: {"communication": layout.errors_here(spec)},
        trial=Trial(
            {"gradient_compression": "powersgd", "gradient_compression_start": 0},
            beside={"parallel": "ddp", "batch_size": 2},
            calls=("lumina.parallel.low_rank:LowRank.exchange",),
            keeps=False,
            ranks=2,
            figures=("ranks",),
            redraws=True,
        ),
    )
)
