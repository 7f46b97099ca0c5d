"""What a run is going to do, on one screen: what is active, and why."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from lumina.model.kinds.table import words
from lumina.optim.declared import chosen_optimizer
from lumina.optim.groups import parse_groups
from lumina.plan.elsewhere import in_words
from lumina.plan.memory_text import at_most, components
from lumina.plan.plan import NOTHING_HELD_OUT, Plan
from lumina.plan.schedule_table import chosen_schedule
from lumina.quantities import UNKNOWN, byte_size, count, known, share

LABEL_WIDTH = 11


def banner_lines(
    plan: Plan,
    environment: Any,
    stats: Mapping[str, Any] | None,
    provenance: Mapping[str, Any] | None,
    *,
    title: str = "Lumina",
    width: int = 100,
) -> list[str]:
    """The banner as plain lines of at most `width` columns.

    Args:
        plan: what was decided.
        environment: `lumina.plan.environment.Environment`.
        stats: figures of the data by name; numbers and short texts are shown.
        provenance: option name -> `lumina.config.provenance.Source`.
    """
    parts: list[tuple[str, str]] = [
        ("model", _model(plan)),
        ("data", _data(stats or {})),
        ("batch", _batch(plan)),
        ("schedule", _schedule(plan)),
        ("device", _device(plan, environment)),
        ("precision", _precision(plan)),
        ("speed", _speed(plan)),
        ("memory", _memory(plan)),
        ("keeps", _keeps(plan)),
        ("asked for", _asked(provenance or {})),
    ]
    parts += [("warning", text) for text in plan.warnings]
    lines = [title]
    for label, text in parts:
        if text:
            lines += _wrapped(label, text, width)
    return lines


def _wrapped(label: str, text: str, width: int) -> list[str]:
    room = max(width - LABEL_WIDTH - 2, 30)
    rows = textwrap.wrap(text, room, break_on_hyphens=False) or [""]
    indent = " " * (LABEL_WIDTH + 2)
    first = f"  {label:<{LABEL_WIDTH}}{rows[0]}"
    return [first, *(indent + row for row in rows[1:])]


def _because(plan: Plan, field: str) -> str:
    reason = plan.reasons.get(field, "")
    return f" ({reason})" if reason else ""


def _model(plan: Plan) -> str:
    spec = plan.spec
    text = f"{count(plan.parameters)} parameters"
    if plan.active_parameters and plan.active_parameters != plan.parameters:
        text += f", {count(plan.active_parameters)} used for one token"
    heads = f"{spec.num_heads} heads"
    if spec.num_kv_heads != spec.num_heads:
        heads += f" ({spec.num_kv_heads} key/value)"
    text += (
        f"; {spec.num_layers} layers of {spec.hidden_size}, {heads}, "
        f"SwiGLU {spec.intermediate_size}, context {spec.seq_length}, "
        f"vocabulary {spec.vocab_size:,}"
    )
    text = "; ".join([text, *words(spec)])
    return ", ".join([text, *spec.traits()])


def _data(stats: Mapping[str, Any]) -> str:
    shown = []
    for name, value in stats.items():
        label = name.replace("_", " ")
        if known(value) is not None:
            text = share(value) if "fraction" in name else count(value)
            shown.append(f"{label} {text}")
        elif isinstance(value, str) and value:
            shown.append(f"{label} {value}")
    return ", ".join(shown)


def _batch(plan: Plan) -> str:
    tokens = plan.global_batch_size * plan.spec.seq_length
    return (
        f"{plan.global_batch_size} sequences, up to {tokens:,} tokens a step = "
        f"{plan.micro_batch_size} a forward x {plan.grad_accum} "
        f"{_plural('forward', plan.grad_accum)} x "
        f"{plan.data_parallel} {_plural('rank', plan.data_parallel)}"
        f"{_because(plan, 'micro_batch_size')}"
    )


def _optimizers(plan: Plan) -> str:
    main = chosen_optimizer(plan.optimizer)
    text = main.words
    if main.rest is not None:
        rest = chosen_optimizer(main.rest).words
        text += f" for {' and '.join(map(_plural_role, main.roles))}, {rest} else"
    for group in parse_groups(plan.optimizer_groups):
        text += f", {chosen_optimizer(group.optimizer).words} for {group.pattern}"
    return text


def _plural_role(role: str) -> str:
    return {"matrix": "matrices", "embedding": "embeddings"}.get(role, f"{role}s")


def _plural(noun: str, number: int) -> str:
    return noun if number == 1 else f"{noun}s"


def _schedule(plan: Plan) -> str:
    text = f"{plan.steps:,} steps"
    if plan.epochs is not None:
        text += f", to epoch {plan.epochs:g}"
    else:
        text += _because(plan, "epochs")
    text += f"{_because(plan, 'steps')}; {_optimizers(plan)}, {plan.lr_scheduler}"
    if not chosen_schedule(plan.lr_scheduler).falls:
        text += f" {plan.learning_rate:g}"
    else:
        text += f" {plan.learning_rate:g} to {plan.min_lr:g}"
    if "auto-adjust-lr" in plan.reasons.get("learning_rate", ""):
        text += _because(plan, "learning_rate")
    text += f", {plan.warmup_steps} warm-up steps"
    text += f", betas {plan.beta1:g} {plan.beta2:g}"
    if plan.max_grad_norm:
        text += f", gradients clipped at {plan.max_grad_norm:g}"
    if plan.qk_clip:
        text += f", attention logits clipped at {plan.qk_clip:g}"
    if plan.ema_decay:
        text += f", weight average {plan.ema_decay:g}"
    if plan.label_smoothing:
        text += f", label smoothing {plan.label_smoothing:g}"
    if plan.gradient_steps:
        text += f", gradient steps {' '.join(plan.gradient_steps)}"
    if plan.swa_start:
        text += f", mean of the weights after {plan.swa_start:.0%} of the run"
    if plan.lookahead_steps:
        text += f", lookahead every {plan.lookahead_steps} steps"
    for what, factors in (
        ("rate", plan.group_learning_rates),
        ("decay", plan.group_weight_decays),
    ):
        if factors:
            text += f", {what} times {' '.join(factors)}"
    if plan.lr_transfer:
        wide, deep = plan.lr_transfer["width"], plan.lr_transfer["depth"]
        text += f", {plan.lr_transfer['mode']} from a base of 1/{wide:g} of the width"
        text += f" and 1/{deep:g} of the depth" if deep != 1 else ""
    if plan.freeze:
        text += f", frozen: {' '.join(plan.freeze)}"
    return text + _preservation(plan)


def _preservation(plan: Plan) -> str:
    """What of the base model training stays near, and how strongly."""
    how = f"strength {plan.preservation:g}"
    if plan.keeps == "weights":
        return f"; near the base weights ({how})"
    if plan.keeps == "outputs":
        how += f", temperature {plan.preservation_temperature:g}"
        return f"; near the base model's scores on {plan.sources[0]} rows ({how})"
    return ""


def _device(plan: Plan, environment: Any) -> str:
    name = getattr(environment, "device_name", "") or plan.device
    text = f"{plan.device}: {name}" if name != plan.device else name
    memory = getattr(environment, "memory_bytes", None)
    if plan.device == "cpu":
        memory = getattr(environment, "host_memory_bytes", memory)
        text += f", {getattr(environment, 'cores', UNKNOWN)} cores"
    text += f", {byte_size(memory)} memory"
    if plan.world_size > 1:
        text += f"; {plan.world_size} ranks with {plan.parallel}"
        text += _because(plan, "parallel")
    if plan.context_parallel > 1:
        text += f"; each row over {plan.context_parallel} ranks"
        text += _because(plan, "context_parallel")
    peaks = getattr(environment, "peak_flops", None) or {}
    if (peak := known(peaks.get(plan.compute_dtype))) is None:
        text += f"; peak speed in {plan.compute_dtype} not known, so no MFU"
    else:
        text += f"; MFU against {peak / 1e12:,.0f} TFLOP/s"
    return text


def _precision(plan: Plan) -> str:
    text = plan.compute_dtype
    if plan.tf32:
        text += " with TF32 products"
    if plan.fp8:
        text += ", linear layers of the blocks multiply float8"
        text += " e4m3" if plan.fp8 == "e4m3" else " (gradients e5m2)"
    text += f", {plan.weights_dtype} "
    text += "master weights" if plan.weights_dtype == "float32" else "weights"
    return text + _because(plan, "compute_dtype")


def _speed(plan: Plan) -> str:
    parts = [
        f"attention {plan.attention}{_because(plan, 'attention')}",
        f"compile {'on' if plan.compile else 'off'}{_because(plan, 'compile')}",
        f"checkpointing {plan.gradient_checkpointing}"
        f"{_because(plan, 'gradient_checkpointing')}",
    ]
    parts += [
        f"{name} on ({why})" for name, (on, why) in plan.feature_reasons().items() if on
    ]
    if plan.deterministic:
        parts.append("deterministic" + _because(plan, "deterministic"))
    return "; ".join(parts)


def _memory(plan: Plan) -> str:
    if not plan.memory:
        return ""
    parts = sorted(components(plan.memory).items(), key=lambda item: -item[1])
    bound = at_most(plan.memory)
    expected = plan.memory.get("expected", bound)
    listed = ", ".join(
        f"{name.replace('_', ' ')} {byte_size(n)}" for name, n in parts[:5]
    )
    bounds = f"about {byte_size(expected)}, at most {byte_size(bound)}"
    text = f"{bounds}, on each device: {listed}"
    if beside := in_words(plan.elsewhere):
        text += f"; beside it {beside}"
    return text


def _keeps(plan: Plan) -> str:
    def every(steps: int) -> str:
        return f"every {steps:,} steps" if steps else "at the end"

    evaluation = f"evaluation {every(plan.eval_every)}"
    if plan.reasons.get("eval_every") == NOTHING_HELD_OUT:
        evaluation = "no evaluation"
    text = (
        f"{evaluation}, checkpoint {every(plan.save_every)}, "
        f"{plan.save_total_limit} kept"
    )
    if plan.recovery.get("snapshots"):
        text += (
            f"; snapshot {every(plan.recovery['snapshot_every'])}, "
            f"{plan.recovery['snapshots']} kept{_because(plan, 'recovery')}"
        )
    return text


def _asked(provenance: Mapping[str, Any]) -> str:
    """The options a person set, each with where; presets and defaults are silent."""
    shown: list[str] = []
    inherited: dict[str, int] = {}
    for leaf, source in provenance.items():
        if not source.chosen:
            continue
        detail = source.detail
        if detail.startswith("weights "):
            # A whole shape came with the weights: one line says it, not forty.
            inherited[detail] = inherited.get(detail, 0) + 1
        else:
            shown.append(f"{leaf} ({source})")
    shapes = [f"{count} options of {detail}" for detail, count in inherited.items()]
    return _first([*shapes, *shown], 14)


def _first(items: Iterable[str], limit: int) -> str:
    items = list(items)
    text = ", ".join(items[:limit])
    return text + (f" and {len(items) - limit} more" if len(items) > limit else "")
