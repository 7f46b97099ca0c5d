"""Why a run does not fit into memory, and what would."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lumina.errors import LuminaError
from lumina.model.spec import ModelSpec
from lumina.optim.declared import known_optimizers
from lumina.parallel.table import chosen_way, preferred_ways
from lumina.plan.costs.layout import NO_STATES, Layout
from lumina.plan.elsewhere import elsewhere
from lumina.plan.environment import Environment
from lumina.plan.experts_too_large import experts_in_words, fewer_experts
from lumina.plan.memory import estimate
from lumina.plan.memory_text import listed
from lumina.plan.optimizers import bytes_per_parameter
from lumina.quantities import byte_size

if TYPE_CHECKING:
    from lumina.config import Config


def too_large(
    spec: ModelSpec, machine: Environment, layout: Layout, config: Config
) -> LuminaError:
    """Why the smallest layout does not fit, in numbers, and what would.

    Args:
        spec: the model's shape.
        machine: what there is.
        layout: the one that takes least of those that may be taken.
        config: what was asked for; names the optimizer.

    Returns:
        E203 where everything but the optimizer's states would fit, else E201 on a GPU
        and E202 on a CPU.
    """
    parts = estimate(spec, layout)
    on_cpu = machine.device == "cpu"
    have = byte_size(machine.memory_bytes)
    message = (
        f"the run may take {byte_size(parts['bound'])} on each device, which has "
        f"{have}: "
        f"{listed(parts)} (micro-batch {layout.micro_batch_size}, checkpointing "
        f"{layout.gradient_checkpointing}, {layout.compute_dtype})"
        f"{experts_in_words(spec)}"
    )
    hints = []
    smaller = replace(layout, micro_batch_size=1, gradient_checkpointing="full")
    smallest = estimate(spec, smaller)["bound"]
    if smallest <= machine.memory_bytes:
        hints.append(
            f"--batch-size 1 --gradient-checkpointing full needs {byte_size(smallest)}"
        )
    elif _fits(replace(smaller, optimizer_states=NO_STATES), spec, machine):
        others = _smaller_optimizers(spec, smaller, machine, config)
        others += _states_on_the_host(spec, smaller, machine)
        others += _with_fewer_experts(spec, smaller, machine, config)
        hints += others or _sharded_hint(spec, smaller, machine)
        return LuminaError(
            "E203",
            f"{message}; without the states of {config.train.optimizer} it would fit",
            "; ".join([*hints, "or train fewer parameters (--freeze)"]),
        )
    else:
        hints += _weights_on_the_host(spec, smaller, machine)
        hints += _with_fewer_experts(spec, smaller, machine, config)
        if not chosen_way(layout.parallel).sharded or layout.data_ranks > 1:
            hints += _sharded_hint(spec, smaller, machine)
    if not hints:
        hints.append("use a smaller preset, or a shorter --seq-length")
    return LuminaError("E202" if on_cpu else "E201", message, "; ".join(hints))


def _fits(layout: Layout, spec: ModelSpec, machine: Environment) -> bool:
    """Whether a layout finds room on a device."""
    return estimate(spec, layout)["bound"] <= machine.memory_bytes


def _with_fewer_experts(
    spec: ModelSpec, layout: Layout, machine: Environment, config: Config
) -> list[str]:
    """How many experts would fit, where their number is still open."""
    if config.get("init_from"):
        return []
    return fewer_experts(spec, layout, lambda need: need <= machine.memory_bytes)


def _smaller_optimizers(
    spec: ModelSpec, layout: Layout, machine: Environment, config: Config
) -> list[str]:
    """The same optimizer with smaller states, where one of them fits: the largest."""
    train = config.train
    sizes = {
        name: bytes_per_parameter(spec, name, train.optimizer_groups, train.freeze)
        for name in known_optimizers()
        if name.startswith(f"{train.optimizer}_")
    }
    for name, size in sorted(sizes.items(), key=lambda one: -one[1].kept):
        smaller = replace(layout, optimizer_states=size)
        if _fits(smaller, spec, machine):
            need = byte_size(estimate(spec, smaller)["bound"])
            return [
                f"--optimizer {name}, --batch-size 1 and --gradient-checkpointing "
                f"full need {need}"
            ]
    return []


def _states_on_the_host(
    spec: ModelSpec, layout: Layout, machine: Environment
) -> list[str]:
    """States in host memory or on disk, where nothing lives there yet."""
    return _beside_the_device(spec, layout, machine, "optimizer_states")


def _weights_on_the_host(
    spec: ModelSpec, layout: Layout, machine: Environment
) -> list[str]:
    """Frozen weights in host memory or on disk, where they are on the device."""
    if not (spec.adapters or layout.freeze) or chosen_way(layout.parallel).sharded:
        return []
    return _beside_the_device(spec, layout, machine, "weights")


def _beside_the_device(
    spec: ModelSpec, layout: Layout, machine: Environment, what: str
) -> list[str]:
    """The nearer of host memory and disk with which a GPU has room; none: neither.

    Args:
        spec: the model's shape.
        layout: the smallest that keeps all of it on the device.
        machine: what there is.
        what: is kept elsewhere: the beginning of an option's and a feature's names.
    """
    places = {place: f"{what}_{place}" for place in ("host", "disk")}
    if machine.device != "cuda" or set(places.values()) & set(layout.features):
        return []
    for place, name in places.items():
        other = replace(layout, features=(*layout.features, name))
        beside = elsewhere(spec, other).get("host", 0) * machine.local_processes
        if _fits(other, spec, machine) and beside <= machine.host_memory_bytes:
            need = byte_size(estimate(spec, other)["bound"])
            return [
                f"--{what.replace('_', '-')}-in {place} with --batch-size 1 and "
                f"--gradient-checkpointing full needs {need}"
            ]
    return []


def _sharded_hint(spec: ModelSpec, layout: Layout, machine: Environment) -> list[str]:
    """The fewest such devices that would hold the model, if some power of two does."""
    # The last of the preferred ones takes least memory.
    names = [way.name for way in preferred_ways() if way.sharded]
    if not names:
        return []
    sharding = names[-1]
    for ranks in (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024):
        sharded = replace(layout, parallel=sharding, data_ranks=ranks)
        need = estimate(spec, sharded)["bound"]
        if ranks > layout.data_ranks and need <= machine.memory_bytes:
            return [
                f"{ranks} such devices with --parallel {sharding}, --batch-size 1 "
                f"and --gradient-checkpointing full need {byte_size(need)} each; or "
                "use a smaller preset"
            ]
    return []
