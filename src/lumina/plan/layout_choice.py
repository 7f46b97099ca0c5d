"""How a step is laid out: the first layout that fits into memory is taken."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lumina.errors import LuminaError
from lumina.model.spec import ModelSpec
from lumina.parallel.table import chosen_way
from lumina.parallel.way import Conditions
from lumina.plan.batching import (
    Batching,
    Split,
    at_most,
    in_one_forward,
    resolve_batching,
)
from lumina.plan.chunks import decide_chunks
from lumina.plan.context import decide_ranks, sizes_of
from lumina.plan.costs.layout import Layout
from lumina.plan.count import count_trainable
from lumina.plan.decisions import Decisions, source_of
from lumina.plan.device_rules import rule_for
from lumina.plan.elsewhere import check_host, decide_offload, elsewhere, layout_beside
from lumina.plan.environment import Environment, device_asked_for
from lumina.plan.exchanging import asked_of_exchange, tried_layouts, when_reduced
from lumina.plan.feature_choice import choose_features, features_with_memory
from lumina.plan.few_bits import decide_few_bits
from lumina.plan.kernels import decide_attention, kernel_family
from lumina.plan.memory import estimate
from lumina.plan.optimizers import bytes_per_parameter, fitting_ways
from lumina.plan.precision import choose_precision
from lumina.plan.recomputing import admitted, ways_to_recompute, why_recomputed
from lumina.plan.sharing import ways_to_share, why_shared
from lumina.plan.too_large import too_large
from lumina.quantities import byte_size

if TYPE_CHECKING:
    from lumina.config import Config

MEMORY_SHARE = 0.9
"""Part of a device's memory an automatic choice may fill, by the estimate's bound."""

ROOMY_BYTES = 40 * 10**9
SMALL_CHUNK_BYTES, LARGE_CHUNK_BYTES = 256 * 2**20, 2**30
"""Bytes of logits held at a time, below and above `ROOMY_BYTES` of GPU memory.

Measured with a dense model of 1.5 B on an H200: 59,742 tokens/s with the small chunk,
62,470 with the large one, which takes 1.5 GiB more."""


def decide_layout(
    config: Config, machine: Environment, spec: ModelSpec, decisions: Decisions
) -> None:
    """Parallelism, checkpointing and the split of a step: what memory decides.

    The first of `_layouts` that fits is taken.

    Raises:
        LuminaError: E002 or E005 if nothing is left to train, E201 or E202 when no
            layout fits, on the device or beside it.
    """
    batching = resolve_batching(config, sizes_of(decisions).rows)
    batching = at_most(batching, rule_for(machine).batch_size)
    if decisions.values["optimizer_in_backward"]:
        batching = in_one_forward(batching)
    if batching.warning:
        decisions.warn(batching.warning)
    layouts = _layouts(config, machine, spec, decisions, batching)
    layouts = admitted(config, machine, spec, layouts)
    room = int(machine.memory_bytes * MEMORY_SHARE)
    bounds = [estimate(spec, layout)["bound"] for layout in layouts]
    fitting = [i for i, bound in enumerate(bounds) if bound <= room]
    if fitting:
        chosen = fitting[0]
    else:
        chosen = bounds.index(min(bounds))
        if bounds[chosen] > machine.memory_bytes:
            raise too_large(spec, machine, layouts[chosen], config)
        decisions.warn(
            f"the run may take {byte_size(bounds[chosen])}, which leaves less than a "
            f"tenth of the {byte_size(machine.memory_bytes)} there are"
        )
    _record_layout(config, decisions, batching, layouts[chosen], machine, spec)
    decisions.values["memory"] = estimate(spec, layouts[chosen])
    beside = elsewhere(spec, layouts[chosen])
    decisions.decide("elsewhere", beside, "counted by the features that keep it there")
    check_host(beside, machine)


def smallest_layout_fits(
    config: Config, environment: Environment, spec: ModelSpec, world_size: int
) -> bool:
    """Whether a run of this shape finds room on the machine, at whatever speed."""
    room = int(device_asked_for(config, environment).memory_bytes * MEMORY_SHARE)
    least = smallest_estimate(config, environment, spec, world_size)
    return least["bound"] <= room


def smallest_estimate(
    config: Config, environment: Environment, spec: ModelSpec, world_size: int
) -> dict[str, int]:
    """Bytes on one device, laid out so that a step takes the least.

    Returns:
        As of `lumina.plan.memory.estimate`.
    """
    machine = device_asked_for(config, environment)
    decisions = Decisions()
    decide_ranks(config, spec, world_size, decisions)
    decide_precision(config, machine, decisions)
    decide_attention(config, machine, spec, decisions)
    decide_fitting_chunks(config, environment, spec, decisions)
    for field in ("ema_decay", "swa_start", "lookahead_steps"):
        decisions.decide(field, config.get(field), "")
    decide_offload(config, spec, decisions)
    decide_few_bits(config, decisions)
    decide_features(config, machine, spec, decisions)
    batching = resolve_batching(config, sizes_of(decisions).rows)
    layouts = _layouts(config, machine, spec, decisions, batching)
    found = (estimate(spec, layout) for layout in layouts)
    return min(found, key=lambda parts: parts["bound"])


def _layouts(
    config: Config,
    machine: Environment,
    spec: ModelSpec,
    decisions: Decisions,
    batching: Batching,
) -> list[Layout]:
    """What may be done, in the order tried.

    Whole weights before sharded ones, no checkpointing before selective before full,
    large forwards before small ones.
    """
    sizes = sizes_of(decisions)
    base = Layout(
        micro_batch_size=1,
        compute_dtype=decisions.values["compute_dtype"],
        weights_dtype=decisions.values["weights_dtype"],
        activations_in=decisions.values["activations_in"],
        activation_bits=decisions.values["activation_bits"],
        feedforward_tile=decisions.values["feedforward_tile"],
        attention_head_groups=decisions.values["attention_head_groups"],
        base_storage=decisions.values["base_storage"],
        data_ranks=sizes.tokens,
        context_ranks=sizes.sequence,
        expert_ranks=sizes.expert,
        loss_chunk_bytes=_decide_loss_chunk(config, machine, decisions),
        trainable=_trainable(config, spec),
        optimizer_states=bytes_per_parameter(
            spec,
            config.train.optimizer,
            config.train.optimizer_groups,
            config.train.freeze,
        ),
        attention=kernel_family(decisions.values["attention"]),
        device=machine.device,
        compile=decisions.values["compile"],
        chunk_tokens=decisions.values["chunk_size"],
        features=features_with_memory(decisions.draft(spec)),
        **layout_beside(decisions.draft(spec)),
    )
    conditions = Conditions(
        spec,
        sizes,
        machine.device,
        decisions.values["compute_dtype"],
        decisions.values["compile"],
        decisions.values["weights_dtype"],
        decisions.values["optimizer_in_backward"],
        **asked_of_exchange(config),
    )
    ways = ways_to_share(config, conditions, decisions)
    fitting = fitting_ways(config, spec, ways)
    checkpointing = ways_to_recompute(config, spec)
    asked = config.exchange.gradients_reduced
    return tried_layouts(base, fitting, checkpointing, batching.choices, asked)


def _trainable(config: Config, spec: ModelSpec) -> int:
    """Parameters that train, after `freeze`.

    Raises:
        LuminaError: E005 for a pattern that matches nothing, E002 if nothing is left.
    """
    trainable = count_trainable(spec, config.train.freeze)
    if trainable == 0:
        raise LuminaError(
            "E002", "every parameter is frozen", "narrow the patterns of --freeze"
        )
    return trainable


def _decide_loss_chunk(
    config: Config, machine: Environment, decisions: Decisions
) -> int:
    """Larger chunks read and write the head's gradient less often."""
    asked = config.system.loss_chunk_bytes
    if asked is not None:
        size, why = asked, source_of(config, "loss_chunk_bytes")
    elif machine.device == "cuda" and machine.memory_bytes >= ROOMY_BYTES:
        size, why = LARGE_CHUNK_BYTES, f"{byte_size(machine.memory_bytes)} of memory"
    else:
        size, why = SMALL_CHUNK_BYTES, "bounds the logits, at little cost in speed"
    decisions.decide("loss_chunk_bytes", size, why)
    return size


def _record_layout(
    config: Config,
    decisions: Decisions,
    batching: Batching,
    layout: Layout,
    machine: Environment,
    spec: ModelSpec,
) -> None:
    room = f"{MEMORY_SHARE:.0%} of {byte_size(machine.memory_bytes)}"
    way = chosen_way(layout.parallel)
    decisions.decide("parallel", way.name, why_shared(config, way, room))
    without = replace(layout, gradient_checkpointing="none")
    taken = estimate(spec, without)["bound"] / machine.memory_bytes
    why = why_recomputed(config, layout, room, taken)
    decisions.decide("gradients_reduced", *when_reduced(config, layout, room))
    decisions.decide("gradient_checkpointing", layout.gradient_checkpointing, why)
    decisions.decide("block_checkpointing", layout.block_checkpointing, why)
    split = Split(layout.micro_batch_size, layout.grad_accum)
    why = batching.why_split or (
        f"the largest power of two that divides a rank's share and fits into {room}"
    )
    decisions.decide("micro_batch_size", split.micro_batch_size, why)
    decisions.decide("grad_accum", split.grad_accum, batching.why_split or "the rest")
    decisions.decide(
        "global_batch_size", batching.global_batch_size, batching.why_global
    )


def decide_fitting_chunks(
    config: Config, environment: Environment, spec: ModelSpec, decisions: Decisions
) -> None:
    """How long the chunks of rows are, so that the run fits; see `decide_chunks`."""

    def fits(trial: Config) -> bool:
        world_size = decisions.values["world_size"]
        return smallest_layout_fits(trial, environment, spec, world_size)

    decide_chunks(config, spec, environment.device, decisions, fits)


def decide_features(
    config: Config, machine: Environment, spec: ModelSpec, decisions: Decisions
) -> None:
    """Those that decide about themselves, by their declarations."""
    before = decisions.draft(spec)
    decisions.take(before, choose_features(before, config, machine))


def decide_precision(
    config: Config, machine: Environment, decisions: Decisions
) -> None:
    """The types of weights and products, and what is said about them."""
    choice = choose_precision(config, machine)
    for name, value in choice.values.items():
        decisions.decide(name, value, choice.reasons[name])
    decisions.warnings += choice.warnings
