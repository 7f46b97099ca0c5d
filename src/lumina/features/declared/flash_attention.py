"""Attention by a flash kernel."""

from __future__ import annotations

from lumina.features.feature import Feature
from lumina.features.table import register
from lumina.features.trial import BF16, Trial

_IN_16_BITS = {"precision": "mixed_bf16"}
"""Kernels that take no float32 values."""


# There are no `needs`: a kernel that is not available gives way to the next best, with
# a warning, even where it was named (lumina.plan.kernels).
register(
    Feature(
        name="flash_attention",
        option="attention",
        summary="attention over packed documents by their boundaries, without a mask",
        without="--attention sdpa",
        change_cost="restart",
        requested=lambda c: (
            c.system.attention in ("flash2", "flash3")
            or c.kernels.experimental_fa3 is True
        ),
        refused=lambda c: c.system.attention in ("sdpa", "blockwise", "reference"),
        active=lambda p: p.attention in ("flash2", "flash3"),
        fallback=lambda p, m: p.replace(attention="sdpa"),
        claim="exact",
        faster=True,
        trial=Trial(
            {"attention": "flash2", **_IN_16_BITS},
            devices=("cuda",),
            rounds="bf16",
            tolerance=BF16,
        ),
    )
)
register(
    Feature(
        name="flash_attention_3",
        option="experimental_fa3",
        plan_field="attention",
        summary="attention by the kernel of FlashAttention-3, on Hopper",
        without="--no-experimental-fa3",
        change_cost="restart",
        requested=lambda c: (
            c.kernels.experimental_fa3 is True or c.system.attention == "flash3"
        ),
        refused=lambda c: (
            c.kernels.experimental_fa3 is False
            or c.system.attention not in ("auto", "flash3")
        ),
        active=lambda p: p.attention == "flash3",
        fallback=lambda p, m: p.replace(attention="flash2"),
        claim="exact",
        faster=True,
        trial=Trial(
            {"attention": "flash3", **_IN_16_BITS},
            devices=("cuda",),
            rounds="bf16",
            tolerance=BF16,
            absent=lambda machine: (
                None
                if machine.flash3
                else f"needs its package: {machine.flash3_detail}"
            ),
        ),
    )
)
