"""Config + environment -> Plan: every choice made, each with its reason."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from lumina.model.spec import ModelSpec
from lumina.plan.abilities import check_abilities
from lumina.plan.compressing import decide_start
from lumina.plan.context import decide_ranks
from lumina.plan.count import count_parameters
from lumina.plan.decisions import Decisions, source_of
from lumina.plan.duration import Done, decide_length, decide_rhythm
from lumina.plan.elsewhere import decide_offload
from lumina.plan.environment import Environment, device_asked_for
from lumina.plan.fallbacks import refuse_fallbacks
from lumina.plan.feature_choice import check_features, settle_features
from lumina.plan.few_bits import decide_few_bits
from lumina.plan.figures import layout_of, with_spec
from lumina.plan.flops import flops_per_token
from lumina.plan.gradient_steps import decide_gradient_steps
from lumina.plan.kernels import decide_attention
from lumina.plan.layout_choice import (
    decide_features,
    decide_fitting_chunks,
    decide_layout,
    decide_precision,
)
from lumina.plan.learning_rate import learning_rate
from lumina.plan.measures import decide_measures
from lumina.plan.memory_rules import adapted
from lumina.plan.optimizers import decide_optimizers
from lumina.plan.orchestrating import decide_orchestrator
from lumina.plan.plan import Plan
from lumina.plan.recovering import decide_recovery
from lumina.plan.schedule_choice import decide_schedule
from lumina.plan.shape import resolve_spec
from lumina.plan.stages import decide_stages
from lumina.plan.step_shapes import decide_step_shapes
from lumina.plan.tiles import decide_tiles
from lumina.plan.too_large import too_large
from lumina.plan.transfer import decide_transfer

if TYPE_CHECKING:
    from lumina.config import Config

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
    machine = device_asked_for(config, environment)
    config = adapted(config, machine)
    check_features(config, machine)
    spec = resolve_spec(config, tokenizer_vocab_size, num_puzzles)
    check_abilities(config, spec, machine)
    decisions = Decisions(warnings=config.warnings())
    _decide_device(config, machine, decisions)
    decide_precision(config, machine, decisions)
    decide_ranks(config, spec, world_size, decisions)
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
    decide_fitting_chunks(config, environment, spec, decisions)
    decide_features(config, machine, spec, decisions)
    decide_layout(config, machine, spec, decisions)
    decide_length(config, decisions, rows_per_epoch, done, data_kind)
    decide_start(config, spec, decisions)
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


def _decide_device(config: Config, machine: Environment, decisions: Decisions) -> None:
    why = source_of(config, "device")
    if config.system.device == "auto":
        found = "there is no CUDA device"
        why = found if machine.device == "cpu" else f"found {machine.device_name}"
    if config.system.device == "auto" and machine.device == "cpu":
        decisions.fall_back(f"the run is on the CPU: {why}")
    decisions.decide("device", machine.device, why)


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
