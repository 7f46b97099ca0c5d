"""SwiGLU and norms as one kernel each, and the tiles of Triton's kernels."""

from __future__ import annotations

from typing import Any

from lumina.features.feature import Choice, Exclusion, Feature, Machine
from lumina.features.needs import capability, kernel_compiler
from lumina.features.table import register
from lumina.features.trial import Trial


def _needs(machine: Machine) -> str | None:
    """CUDA, and Triton with what it compiles by."""
    if machine.device != "cuda":
        return "needs a CUDA device"
    return kernel_compiler(machine)


def _automatic(plan: Any, machine: Machine) -> Choice:
    """Off: the compiler fuses the same operations with their neighbours."""
    return Choice(False, "not measured to be faster; --triton-kernels has them")


def _untuned(plan: Any, machine: Machine) -> Choice:
    """Off until tiles are measured on such a device."""
    return Choice(False, "not measured on Blackwell; named, it has an effect there")


register(
    Feature(
        name="fused_kernels",
        option="triton_kernels",
        summary="SwiGLU, RMSNorm and norms of queries and keys as one kernel each, "
        "forwards and backwards",
        without="--no-triton-kernels",
        requested=lambda c: c.kernels.triton_kernels is True,
        refused=lambda c: c.kernels.triton_kernels is False,
        active=lambda p: p.triton_kernels,
        needs=_needs,
        automatic=_automatic,
        switch_on=lambda p: p.replace(triton_kernels=True),
        fallback=lambda p, m: p.replace(triton_kernels=False),
        excludes=(
            Exclusion("tiled_feedforward", "tiles multiply by their own feed-forward"),
        ),
        build="lumina.model.fused_kernels:use_fused_kernels",
        claim="exact",
        faster=True,
        trial=Trial({"triton_kernels": True}),
    )
)
register(
    Feature(
        name="blackwell_tuning",
        option="experimental_blackwell_tuning",
        plan_field="blackwell_tuning",
        summary="tiles for Blackwell: 128 queries, 64 keys, 8 warps, 3 stages",
        without="--no-experimental-blackwell-tuning",
        change_cost="restart",
        requested=lambda c: c.kernels.experimental_blackwell_tuning is True,
        refused=lambda c: c.kernels.experimental_blackwell_tuning is False,
        active=lambda p: p.blackwell_tuning,
        needs=capability(10, 0),
        automatic=_untuned,
        switch_on=lambda p: p.replace(blackwell_tuning=True),
        fallback=lambda p, m: p.replace(blackwell_tuning=False),
        trial=Trial({"experimental_blackwell_tuning": True}),
    )
)
