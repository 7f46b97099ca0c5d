"""Steps captured as CUDA graphs."""

from __future__ import annotations

from typing import Any

from lumina.features.feature import Choice, Exclusion, Feature, Machine
from lumina.features.table import register
from lumina.features.trial import Trial


def _needs(machine: Machine) -> str | None:
    """CUDA, whose graphs they are."""
    return None if machine.device == "cuda" else "needs a CUDA device"


def _automatic(plan: Any, machine: Machine) -> Choice:
    """Off: what a graph saves is the launching of kernels, which large ones hide."""
    return Choice(
        False,
        "1.03x for 124M parameters on an H200, and it holds memory between steps; "
        "--experimental-cuda-graphs has it",
    )


_HOST = "the host moves data inside the step"
_RANKS = "a step of several processes is not captured"
_PARTS = "whether code of a plug-in repeats on the device alone is not known"

register(
    Feature(
        name="cuda_graphs",
        option="experimental_cuda_graphs",
        plan_field="cuda_graphs",
        summary="capture forward, backward and optimizer as one CUDA graph",
        without="--no-experimental-cuda-graphs",
        requested=lambda c: c.kernels.experimental_cuda_graphs is True,
        refused=lambda c: c.kernels.experimental_cuda_graphs is False,
        active=lambda p: p.cuda_graphs,
        needs=_needs,
        automatic=_automatic,
        switch_on=lambda p: p.replace(cuda_graphs=True),
        fallback=lambda p, m: p.replace(cuda_graphs=False),
        excludes=(
            Exclusion("chunked_training", "chunks seed and cut on the host"),
            Exclusion("activations_host", _HOST),
            Exclusion("activations_disk", _HOST),
            Exclusion("optimizer_states_host", _HOST),
            Exclusion("optimizer_states_disk", _HOST),
            Exclusion("optimizer_in_backward", "weights change in hooks of the host"),
            Exclusion("qk_clip", "its largest logits are read in every step"),
            Exclusion("several_tasks", "rows of a task are numbers of the host"),
            Exclusion("hierarchical_reasoning", "its states go from step to step"),
            Exclusion("preserve_base_outputs", "a second model runs beside the step"),
            Exclusion("adalora", "what trains changes on the host"),
            Exclusion("ddp", _RANKS, "use one process, or leave the graphs out"),
            Exclusion("zero1", _RANKS, "use one process, or leave the graphs out"),
            Exclusion("zero2", _RANKS, "use one process, or leave the graphs out"),
            Exclusion("fsdp2", _RANKS, "use one process, or leave the graphs out"),
            Exclusion("registered_block", _PARTS),
            Exclusion("registered_attention", _PARTS),
            Exclusion("registered_feedforward", _PARTS),
            Exclusion("registered_backbone", _PARTS),
            Exclusion("registered_objective", _PARTS),
        ),
        trial=Trial({"experimental_cuda_graphs": True}),
    )
)
