"""A Plan as text: what `lumina train --dry-run` prints. Trains nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields
from textwrap import wrap
from typing import Any

from lumina.model.kinds.table import words
from lumina.model.spec import ModelSpec
from lumina.plan.count import Counts, count_parameters
from lumina.plan.elsewhere import WORDS
from lumina.plan.environment import Environment
from lumina.plan.flops import CONVENTION
from lumina.plan.memory_text import at_most, components
from lumina.plan.plan import Plan
from lumina.plan.storage import checkpoints_kept, storage
from lumina.quantities import byte_size, duration

# Fields with a place of their own in the text.
_ELSEWHERE = {
    "spec",
    "memory",
    "reasons",
    "warnings",
    "features",
    "parameters",
    "active_parameters",
    "flops_per_token",
}
UNKNOWN = "unknown"
DEFAULT = "the default"
"""The reason of what nothing decided."""


SECTIONS = (
    "model", "parameters", "memory", "storage", "generation", "data", "work",
    "decisions", "warnings",
)  # fmt: skip
"""What `explain` tells, in this order."""


def explain(
    plan: Plan,
    environment: Environment | None = None,
    *,
    rows_per_epoch: int | None = None,
    stats: Mapping[str, Any] | None = None,
    tokens_per_second: float | None = None,
    time: Sequence[str] = (),
    sections: Collection[str] = SECTIONS,
) -> str:
    """The resolved plan with reasons, parameters, memory, tokens, steps and time.

    Args:
        plan: what was decided.
        environment: what it was decided for.
        rows_per_epoch: packed rows of one pass over the data, where known.
        stats: what `lumina.data.prepare` counted, where there is data.
        tokens_per_second: over all devices, as measured on this machine with this
            plan; without a measurement or `time` the time is unknown, never guessed.
        time: lines of an estimate (`lumina.plan.time_estimate`).
        sections: what to tell, of `SECTIONS`.
    """
    told = {
        "model": ("Model", lambda: _model_lines(plan.spec)),
        "parameters": (
            "Parameters",
            lambda: parameter_lines(count_parameters(plan.spec)),
        ),
        "memory": (
            "Memory of one device, estimated",
            lambda: _memory_lines(plan, environment),
        ),
        "storage": ("Disk, estimated", lambda: _storage_lines(plan)),
        "generation": (
            "Keys and values in generation, at most",
            lambda: _generation_lines(plan),
        ),
        "data": ("Data", lambda: _data_lines(plan, rows_per_epoch, stats or {})),
        "work": ("Work", lambda: _work_lines(plan, tokens_per_second, time)),
        "decisions": ("Decisions", lambda: _decision_lines(plan)),
        "warnings": ("Warnings", lambda: [f"- {text}" for text in plan.warnings]),
    }
    blocks = [
        (title, lines())
        for name, (title, lines) in told.items()
        if name in sections
        and (name != "warnings" or plan.warnings)
        and (name != "generation" or not plan.spec.solves_puzzles)
    ]
    return "\n\n".join(
        "\n".join([title, *(f"  {line}" for line in lines)]) for title, lines in blocks
    )


def parameter_lines(counts: Counts) -> list[str]:
    """The counts by kind, the sums first."""
    lines = [
        f"{'total':<22}{counts.total:>20,}",
        f"{'active':<22}{counts.active:>20,}  {counts.active / counts.total:.1%}"
        " of all: what one token uses",
        f"{'active, no embedding':<22}{counts.active_non_embedding:>20,}  the head"
        " counts, also a tied one",
    ]
    for name in ("embedding", "head", "attention", "feedforward", "router", "norms"):
        lines.append(f"{name:<22}{getattr(counts, name):>20,}")
    if counts.experts:
        lines.append(
            f"{'experts':<22}{counts.experts:>20,}  {counts.expert_share:.1%} of all;"
            f" a token uses {counts.active_expert_share:.1%} of them"
        )
    if counts.adapters:
        lines.append(
            f"{'adapters':<22}{counts.adapters:>20,}  "
            f"{counts.adapters / counts.total:.2%} of all; the rest is frozen"
        )
    if counts.head == 0:
        lines.append("the head is the embedding")
    return lines


def _model_lines(spec: ModelSpec) -> list[str]:
    lines = [
        f"{spec.num_layers} layers of width {spec.hidden_size}, {spec.num_heads} query "
        f"and {spec.num_kv_heads} key/value heads of {spec.head_dim}",
        f"SwiGLU {spec.intermediate_size}, sequence {spec.seq_length:,}, vocabulary "
        f"{spec.vocab_size:,} in {spec.padded_vocab_size:,} rows",
    ]
    lines += words(spec)
    if traits := spec.traits():
        lines.append(", ".join(traits))
    return lines


def _memory_lines(plan: Plan, environment: Environment | None) -> list[str]:
    lines = [
        f"{name.replace('_', ' '):<22}{byte_size(size):>20}"
        for name, size in components(plan.memory).items()
    ]
    bound = at_most(plan.memory)
    line = f"{'at most':<22}{byte_size(bound):>20}"
    if environment is not None:
        have = environment.memory_bytes
        line += f"  {bound / have:.0%} of {byte_size(have)}"
    lines.append(line)
    if "expected" in plan.memory:
        lines.append(f"{'expected':<22}{byte_size(plan.memory['expected']):>20}")
    lines += [
        f"{'in ' + place:<22}{byte_size(size):>20}  {WORDS.get(place, place)}"
        for place, size in plan.elsewhere.items()
    ]
    return lines


def _generation_lines(plan: Plan) -> list[str]:
    """The cache of one row, in each of its formats."""
    import torch

    from lumina.plan.kv_cache import lines

    return lines(plan.spec, getattr(torch, plan.compute_dtype))


def _storage_lines(plan: Plan) -> list[str]:
    return [
        f"{name:<22}{byte_size(size):>20}"
        + (f"  {checkpoints_kept(plan)} at most" if name == "checkpoints" else "")
        for name, size in storage(plan).items()
        if size
    ]


def _data_lines(
    plan: Plan, rows_per_epoch: int | None, stats: Mapping[str, Any]
) -> list[str]:
    """One pass over the data, and the plain figures among its statistics."""
    lines = []
    if rows_per_epoch:
        passes = plan.steps * plan.global_batch_size / rows_per_epoch
        lines += [
            f"{'rows of one pass':<22}{rows_per_epoch:>20,}",
            f"{'tokens of one pass':<22}{rows_per_epoch * plan.spec.seq_length:>20,}"
            "  at most (padding included)",
            f"{'passes':<22}{passes:>20.3g}",
        ]
    for name, value in stats.items():
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            continue
        shown = f"{value:,}" if isinstance(value, int) else str(value)
        if isinstance(value, float):
            shown = f"{value:.4g}"
        lines.append(f"{name.replace('_', ' '):<22}{shown:>20}")
    return lines or [UNKNOWN]


def _work_lines(
    plan: Plan, tokens_per_second: float | None, time: Sequence[str]
) -> list[str]:
    per_step = plan.global_batch_size * plan.spec.seq_length
    tokens = per_step * plan.steps
    unknown = f"time         {UNKNOWN} until a run of this plan was measured here"
    lines = list(time) or [unknown]
    if tokens_per_second:
        whole = duration(tokens / tokens_per_second)
        lines = [f"time         {whole} at {tokens_per_second:,.0f}/s"]
    return [
        f"steps        {plan.steps:,}",
        f"tokens       {tokens:,} at most, {per_step:,} a step (padding included)",
        f"operations   {plan.flops_per_token * tokens:.3g} in all, "
        f"{plan.flops_per_token:.3g} a token",
        f"             {CONVENTION}",
        *lines,
    ]


def _decision_lines(plan: Plan) -> list[str]:
    why = plan.reasons.get("seq_length", "")
    lines = [f"{'seq_length':<23} {plan.spec.seq_length:<11} {why}".rstrip()]
    at_default: list[str] = []
    for field in fields(plan):
        if field.name in _ELSEWHERE:
            continue
        shown = _shown(getattr(plan, field.name))
        why = plan.reasons.get(field.name, "")
        if why == DEFAULT:
            at_default.append(f"{field.name} {shown}")
            continue
        lines.append(f"{field.name:<23} {shown:<11} {why}".rstrip())
    for name, (on, why) in plan.feature_reasons().items():
        lines.append(f"{name:<23} {_shown(on):<11} {why}".rstrip())
    # Nothing decided these, so they stand together, below what was decided.
    return lines + wrap(
        f"{DEFAULT}: {', '.join(at_default)}", 86, subsequent_indent="  "
    )


def _pairs(values: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """NAME=VALUE of every value, those of inner mappings as NAME.INNER=VALUE."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _pairs(value, f"{before}{name}.")
        else:
            yield f"{before}{name}={value}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "nothing"
    if isinstance(value, dict):
        return " ".join(_pairs(value)) or "-"
    return "-" if value in (None, "") else str(value)
