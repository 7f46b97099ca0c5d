"""cuDNN's algorithms, tried for every new shape."""

from __future__ import annotations

from typing import Any

from lumina.features.feature import Choice, Exclusion, Feature, Machine
from lumina.features.table import register
from lumina.features.trial import Trial


def _needs(machine: Machine) -> str | None:
    """cuDNN."""
    return None if machine.device == "cuda" else "needs a CUDA device"


def _automatic(plan: Any, machine: Machine) -> Choice:
    """Off: nothing of Lumina's own blocks is a convolution."""
    return Choice(False, "only convolutions ask for it, and Lumina's blocks have none")


register(
    Feature(
        name="cudnn_benchmark",
        option="cudnn_benchmark",
        summary="let cuDNN try its algorithms for every new shape",
        without="--no-cudnn-benchmark",
        change_cost="restart",
        requested=lambda c: c.kernels.cudnn_benchmark is True,
        refused=lambda c: c.kernels.cudnn_benchmark is False,
        active=lambda p: p.cudnn_benchmark,
        needs=_needs,
        automatic=_automatic,
        switch_on=lambda p: p.replace(cudnn_benchmark=True),
        fallback=lambda p, m: p.replace(cudnn_benchmark=False),
        excludes=(
            Exclusion("deterministic", "which algorithm is the fastest may differ"),
        ),
        trial=Trial({"cudnn_benchmark": True}),
    )
)
