"""What decides the shapes of a step beside its rows: reading ahead and routing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina.errors import LuminaError
from lumina.model.spec import ModelSpec
from lumina.plan.decisions import Decisions, source_of

if TYPE_CHECKING:
    from lumina.config import Config
    from lumina.plan.environment import Environment

ROW_BYTES = 8
"""torch's grouped product takes rows of so many 16-bit numbers, or multiples."""


def decide_step_shapes(
    config: Config, machine: Environment, spec: ModelSpec, decisions: Decisions
) -> None:
    """Decide `Plan.prefetch_threads`, and refuse static routing that cannot be.

    Raises:
        LuminaError: E002 for static routing of experts whose sizes the host reads.
    """
    asked = config.loading.prefetch_threads
    count = 1 if asked is None else asked
    why = source_of(config, "prefetch_threads")
    decisions.decide("prefetch_threads", count, why)
    plain, why = machine.plain_backwards, "HYDRA_DISABLE_FUSED_..._BWD, as they are set"
    decisions.decide("plain_backwards", plain, why)
    scaling = config.kernels.fp8_scaling
    decisions.decide("fp8_scaling", scaling, source_of(config, "fp8_scaling"))
    warm_up = config.kernels.cuda_graphs_warmup
    why = source_of(config, "cuda_graphs_warmup")
    decisions.decide("cuda_graphs_warmup", warm_up, why)
    asking = {
        "static_routing_mode": config.routing.static_routing_mode,
        "experimental_cuda_graphs": config.kernels.experimental_cuda_graphs,
    }
    asked_by = next((leaf for leaf, on in asking.items() if on), None)
    if asked_by is None:
        return
    device, dtype = decisions.values["device"], decisions.values["compute_dtype"]
    problem = host_reads_experts(spec, device, dtype)
    if problem:
        raise LuminaError(
            "E002",
            f"{asked_by}: {problem}",
            f"use --moe-dispatch capacity, or --no-{asked_by.replace('_', '-')}",
        )


def host_reads_experts(spec: ModelSpec, device: str, dtype: str) -> str:
    """Why the host has to know how many tokens each expert has, or "".

    Args:
        spec: the model's shape.
        device: of the run.
        dtype: that it computes in.
    """
    moe = spec.moe
    if moe is None or moe.dispatch == "capacity":
        return ""
    sides = (spec.hidden_size, moe.intermediate_size)
    if device == "cuda" and dtype == "bfloat16":
        if not any(side % ROW_BYTES for side in sides):
            return ""
        where = f"hidden size and expert width are no multiples of {ROW_BYTES}"
    else:
        where = f"{dtype} on {device} has no grouped product on the device"
    return f"dropless experts are multiplied one by one, by sizes that vary: {where}"
