"""Config + environment -> Plan: every choice made, each with its reason."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

from lumina.errors import LuminaError
from lumina.model.spec import ModelSpec
from lumina.parallel.sizes import Sizes
from lumina.parallel.table import chosen_way
from lumina.parallel.way import Conditions
from lumina.plan.abilities import check_abilities
from lumina.plan.batching import (
    Batching,
    Split,
    at_most,
    in_one_forward,
    resolve_batching,
)
from lumina.plan.chunks import decide_chunks
from lumina.plan.costs.layout import Layout
from lumina.plan.count import count_parameters, count_trainable
from lumina.plan.decisions import Decisions, source_of
from lumina.plan.device_rules import rule_for
from lumina.plan.duration import Done, decide_length, decide_rhythm
from lumina.plan.elsewhere import (
    check_host,
    decide_offload,
    elsewhere,
    layout_beside,
)
from lumina.plan.environment import Environment, no_device
from lumina.plan.exchanging import asked_of_exchange, tried_layouts, when_reduced
from lumina.plan.fallbacks import refuse_fallbacks
from lumina.plan.feature_choice import (
    check_features,
    choose_features,
    features_with_memory,
    settle_features,
)
from lumina.plan.few_bits import decide_few_bits
from lumina.plan.flops import flops_per_token
from lumina.plan.gradient_steps import decide_gradient_steps
from lumina.plan.kernels import decide_attention, kernel_family
from lumina.plan.learning_rate import learning_rate
from lumina.plan.measures import decide_measures
from lumina.plan.memory import estimate
from lumina.plan.memory_rules import adapted
from lumina.plan.optimizers import (
    bytes_per_parameter,
    decide_optimizers,
    fitting_ways,
)
from lumina.plan.orchestrating import decide_orchestrator
from lumina.plan.plan import Plan
from lumina.plan.precision import choose_precision
from lumina.plan.recomputing import admitted, ways_to_recompute, why_recomputed
from lumina.plan.recovering import decide_recovery
from lumina.plan.schedule_choice import decide_schedule
from lumina.plan.shape import resolve_spec
from lumina.plan.sharing import ways_to_share, why_shared
from lumina.plan.stages import decide_stages
from lumina.plan.step_shapes import decide_step_shapes
from lumina.plan.tiles import decide_tiles
from lumina.plan.too_large import too_large
from lumina.plan.transfer import decide_transfer
from lumina.quantities import byte_size

if TYPE_CHECKING:
    from lumina.config import Config

MEMORY_SHARE = 0.9
"""Part of a device's memory an automatic choice may fill, by the estimate's bound."""

ROOMY_BYTES = 40 * 10**9
SMALL_CHUNK_BYTES, LARGE_CHUNK_BYTES = 256 * 2**20, 2**30
"""Logits held at a time, below and above `ROOMY_BYTES` of GPU memory. Measured on an
H200 (Work A): 59,742 tokens/s with the small one, 62,470 with the large, +1.5 GiB."""

# Options that become fields of the Plan as they are: field -> leaf.
_PASSED_ON = {
    "weight_decay": "weight_decay",
    "beta1": "beta1",
    "beta2": "beta2",
    "eps": "eps",
    "max_grad_norm": "max_grad_norm",
    "qk_clip": "qk_clip",
    "ema_decay": "ema_decay",
    "label_smoothing": "label_smoothing",
    "swa_start": "swa_start",
    "lookahead_steps": "lookahead_steps",
    "lookahead_share": "lookahead_share",
    "puzzle_lr": "puzzle_lr",
    "puzzle_weight_decay": "puzzle_weight_decay",
    "freeze": "freeze",
    "pinned": "pin",
    "seed": "seed",
    "deterministic": "deterministic",
    "save_total_limit": "save_total_limit",
    "log_every": "log_every_n_batches",
}


def make_plan(
    config: Config,
    environment: Environment,
    *,
    tokenizer_vocab_size: int | None,
    rows_per_epoch: int | None,
    world_size: int = 1,
    eval_rows: int | None = None,
    num_puzzles: int = 1,
    done: Done | None = None,
    data_kind: str | None = None,
) -> Plan:
    """Decide everything about a run before it starts.

    A pure function: the same arguments give the same Plan, whatever the machine it is
    called on, so ranks agree when they are given one environment.

    Args:
        config: what was asked for.
        environment: what there is (`probe`).
        tokenizer_vocab_size: tokens the tokenizer knows; None before there is one.
        rows_per_epoch: rows of `seq_length` in one pass; None where not known. Of data
            whose `data_kind` is named, that number does not exist.
        world_size: processes that train together.
        eval_rows: rows held out; 0 for none, None where not known.
        num_puzzles: puzzle identifiers, for a model of puzzles.
        done: what a run that is resumed has trained; None for a new run.
        data_kind: the kind of data; None where there is none yet.

    Raises:
        LuminaError: E002 for settings that contradict each other, E003 for what the
            hardware cannot do, E201 or E202 when the run cannot fit.
    """
    machine = _machine(config, environment)
    config = adapted(config, machine)
    check_features(config, machine)
    spec = resolve_spec(config, tokenizer_vocab_size, num_puzzles)
    check_abilities(config, spec, machine)
    decisions = Decisions(warnings=config.warnings())
    _decide_device(config, machine, decisions)
    _decide_precision(config, machine, decisions)
    decisions.decide("world_size", world_size, "processes that were started")
    for field, leaf in _PASSED_ON.items():
        decisions.decide(field, config.get(leaf), source_of(config, leaf))
    decide_stages(config, decisions)
    decisions.reasons["seq_length"] = source_of(config, "seq_length")
    decisions.decide("learning_rate", *learning_rate(config, spec))
    decide_transfer(config, spec, decisions)
    decide_optimizers(config, spec, decisions)
    decide_gradient_steps(config, decisions)
    decide_offload(config, spec, decisions)
    decide_few_bits(config, decisions)
    decide_attention(config, machine, spec, decisions)
    decide_step_shapes(config, machine, spec, decisions)
    decide_tiles(config, machine, spec, decisions)
    _decide_chunks(config, environment, spec, decisions)
    _decide_features(config, machine, spec, decisions)
    _decide_layout(config, machine, spec, decisions)
    decide_length(config, decisions, rows_per_epoch, done, data_kind)
    decide_measures(config, decisions)
    decide_schedule(config, decisions, done)
    decide_rhythm(config, decisions, eval_rows, done)
    decide_orchestrator(config, decisions)
    decide_recovery(config, machine, decisions)
    plan = _settled(_finish(spec, decisions), config, machine)
    if config.system.strict:
        refuse_fallbacks(plan)
    return plan


def _settled(plan: Plan, config: Config, machine: Environment) -> Plan:
    """The Plan after the features that give way, whose memory still fits."""
    settled = settle_features(plan, config, machine)
    if settled is plan:
        return plan
    settled = with_spec(settled, settled.spec)
    if settled.memory["bound"] > machine.memory_bytes:
        raise too_large(settled.spec, machine, layout_of(settled), config)
    return settled


def _machine(config: Config, environment: Environment) -> Environment:
    """The environment on the device that was asked for."""
    asked = "cuda" if config.system.cuda_ids else config.system.device
    if asked == "cpu":
        return environment.on_cpu()
    if asked not in ("auto", environment.device):
        raise no_device(asked)
    return environment


def _decide_device(config: Config, machine: Environment, decisions: Decisions) -> None:
    why = source_of(config, "device")
    if config.system.device == "auto":
        found = "there is no CUDA device"
        why = found if machine.device == "cpu" else f"found {machine.device_name}"
    if config.system.device == "auto" and machine.device == "cpu":
        decisions.fall_back(f"the run is on the CPU: {why}")
    decisions.decide("device", machine.device, why)


def _decide_precision(
    config: Config, machine: Environment, decisions: Decisions
) -> None:
    choice = choose_precision(config, machine)
    for name, value in choice.values.items():
        decisions.decide(name, value, choice.reasons[name])
    decisions.warnings += choice.warnings


def _decide_layout(
    config: Config, machine: Environment, spec: ModelSpec, decisions: Decisions
) -> None:
    """Parallelism, checkpointing and the split of a step: what memory decides.

    The first of `_layouts` that fits is taken.
    """
    batching = resolve_batching(config, _sizes(decisions).data)
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
    room = int(_machine(config, environment).memory_bytes * MEMORY_SHARE)
    least = smallest_estimate(config, environment, spec, world_size)
    return least["bound"] <= room


def smallest_estimate(
    config: Config, environment: Environment, spec: ModelSpec, world_size: int
) -> dict[str, int]:
    """Bytes on one device, laid out so that a step takes the least.

    Returns:
        As of `lumina.plan.memory.estimate`.
    """
    machine = _machine(config, environment)
    decisions = Decisions()
    decisions.decide("world_size", world_size, "")
    _decide_precision(config, machine, decisions)
    decide_attention(config, machine, spec, decisions)
    _decide_chunks(config, environment, spec, decisions)
    for field in ("ema_decay", "swa_start", "lookahead_steps"):
        decisions.decide(field, config.get(field), "")
    decide_offload(config, spec, decisions)
    decide_few_bits(config, decisions)
    _decide_features(config, machine, spec, decisions)
    batching = resolve_batching(config, _sizes(decisions).data)
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
    sizes = _sizes(decisions)
    base = Layout(
        micro_batch_size=1,
        compute_dtype=decisions.values["compute_dtype"],
        weights_dtype=decisions.values["weights_dtype"],
        activations_in=decisions.values["activations_in"],
        activation_bits=decisions.values["activation_bits"],
        feedforward_tile=decisions.values["feedforward_tile"],
        attention_head_groups=decisions.values["attention_head_groups"],
        base_storage=decisions.values["base_storage"],
        data_ranks=sizes.data,
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


def _sizes(decisions: Decisions) -> Sizes:
    """Ranks along each dimension of the mesh."""
    return Sizes.of(decisions.values["world_size"])


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


def _decide_chunks(
    config: Config, environment: Environment, spec: ModelSpec, decisions: Decisions
) -> None:
    def fits(trial: Config) -> bool:
        world_size = decisions.values["world_size"]
        return smallest_layout_fits(trial, environment, spec, world_size)

    decide_chunks(config, spec, environment.device, decisions, fits)


def _decide_features(
    config: Config, machine: Environment, spec: ModelSpec, decisions: Decisions
) -> None:
    """Those that decide about themselves, by their declarations."""
    before = decisions.draft(spec)
    decisions.take(before, choose_features(before, config, machine))


def with_spec(plan: Plan, spec: ModelSpec) -> Plan:
    """The Plan for a changed model: counted, and its memory estimated, again."""
    counts = count_parameters(spec)
    plan = plan.replace(spec=spec)
    return plan.replace(
        parameters=counts.total,
        active_parameters=counts.active,
        flops_per_token=flops_per_token(spec, counts),
        memory=estimate(spec, layout_of(plan)),
        elsewhere=elsewhere(spec, layout_of(plan)),
    )


def layout_of(plan: Plan) -> Layout:
    """How a Plan lays out a step, as far as its memory depends on it."""
    return Layout(
        micro_batch_size=plan.micro_batch_size,
        compute_dtype=plan.compute_dtype,
        weights_dtype=plan.weights_dtype,
        base_storage=plan.base_storage,
        grad_accum=plan.grad_accum,
        gradient_checkpointing=plan.gradient_checkpointing,
        block_checkpointing=plan.block_checkpointing,
        activations_in=plan.activations_in,
        activation_bits=plan.activation_bits,
        feedforward_tile=plan.feedforward_tile,
        attention_head_groups=plan.attention_head_groups,
        parallel=plan.parallel,
        data_ranks=plan.data_parallel,
        loss_chunk_bytes=plan.loss_chunk_bytes,
        trainable=count_trainable(plan.spec, plan.freeze),
        optimizer_states=bytes_per_parameter(
            plan.spec, plan.optimizer, plan.optimizer_groups, plan.freeze
        ),
        attention=kernel_family(plan.attention),
        device=plan.device,
        compile=plan.compile,
        chunk_tokens=plan.chunk_size,
        features=features_with_memory(plan),
        **layout_beside(plan),
    )


def _finish(spec: ModelSpec, decisions: Decisions) -> Plan:
    counts = count_parameters(spec)
    decisions.decide("parameters", counts.total, "counted by formula")
    decisions.decide("active_parameters", counts.active, "used by one token")
    decisions.decide("rules", (), "decided when a run begins")
    decisions.decide("adapter_base", {}, "named when a run with adapters begins")
    decisions.decide("experience", {}, "looked up when a run begins")
    decisions.decide(
        "flops_per_token", flops_per_token(spec, counts), "forward and backward"
    )
    known = {field.name for field in fields(Plan)}
    unknown = decisions.values.keys() - known
    assert not unknown, f"not fields of a Plan: {unknown}"
    return Plan(
        spec=spec,
        **decisions.values,
        fallbacks=tuple(decisions.fallbacks),
        reasons=decisions.reasons,
        warnings=tuple(dict.fromkeys(decisions.warnings)),
    )
