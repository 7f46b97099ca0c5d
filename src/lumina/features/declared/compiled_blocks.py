"""Blocks compiled by torch.compile."""

from __future__ import annotations

from typing import Any

from lumina.features.feature import Choice, Feature, Machine
from lumina.features.needs import kernel_compiler
from lumina.features.table import register
from lumina.features.trial import Trial


def _automatic(plan: Any, machine: Machine) -> Choice:
    """On CUDA, where kernels can be built (`needs`), compiling is worth its time."""
    if machine.device != "cuda":
        where = {"cpu": "the CPU", "mps": "an Apple GPU"}[machine.device]
        return Choice(False, f"off on {where} unless asked for")
    return Choice(True, f"CUDA with {machine.compiler_detail}")


register(
    Feature(
        name="compile",
        option="compile",
        summary="compile every block with torch.compile",
        without="--no-compile",
        requested=lambda c: c.system.compile is True,
        refused=lambda c: c.system.compile is False,
        active=lambda p: p.compile,
        needs=kernel_compiler,
        automatic=_automatic,
        switch_on=lambda p: p.replace(compile=True),
        fallback=lambda p, m: p.replace(compile=False),
        claim="exact",
        faster=True,
        trial=Trial({"compile": True}, figures=("compiled_frames",)),
    )
)
