"""Gradients exchanged as products of narrow matrices: from when, and how much."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina.model.spec import ModelSpec
from lumina.plan.count import count_exchanged
from lumina.plan.decisions import Decisions, source_of
from lumina.quantities import byte_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lumina.config import Config
    from lumina.plan.plan import Plan

POWERSGD = "powersgd"
"""The value of `gradient_compression` that takes gradients apart."""

SHARE = 10
"""Steps of a run to one before gradients are taken apart, unless an option says more.

The first steps turn the gradients most, when factors that are a step old fit least."""


def compresses(plan: Plan) -> bool:
    """Whether a Plan's ranks exchange gradients as products of narrow matrices."""
    return plan.gradient_compression == POWERSGD


def asked_rank(config: Config) -> int:
    """Columns of the factors that were asked for; 0: gradients stay whole."""
    asked = config.exchange
    if asked.gradient_compression != POWERSGD:
        return 0
    return asked.gradient_compression_rank


def decide_compression(config: Config, decisions: Decisions) -> None:
    """`Plan.gradient_compression` and its rank; one process exchanges nothing."""
    asked = config.exchange.gradient_compression
    why = source_of(config, "gradient_compression")
    if asked != "none" and decisions.values["world_size"] == 1:
        decisions.warn(f"gradient_compression {asked}: one process sends nothing")
        asked, why = "none", "one process sends nothing"
    decisions.decide("gradient_compression", asked, why)
    rank = "gradient_compression_rank"
    decisions.decide(rank, config.get(rank), source_of(config, rank))


def decide_start(config: Config, spec: ModelSpec, decisions: Decisions) -> None:
    """`Plan.gradient_compression_start`, when the number of steps is known."""
    start, why = config.exchange.gradient_compression_start, ""
    if start is None:
        start = decisions.values["steps"] // SHARE
        why = f"a tenth of {decisions.values['steps']:,} steps"
    field = "gradient_compression_start"
    decisions.decide(field, start, why or source_of(config, field))
    if decisions.values["gradient_compression"] == POWERSGD:
        rank = decisions.values["gradient_compression_rank"]
        words = _in_words(spec, config.train.freeze, rank, start)
        decisions.reasons["gradient_compression"] += f": {words}"


def exchanged_bytes(plan: Plan) -> int:
    """Bytes of the gradients that a rank adds up with the others in a step.

    float32, as ranks that hold whole weights exchange them.
    """
    rank = plan.gradient_compression_rank if compresses(plan) else 0
    return 4 * count_exchanged(plan.spec, plan.freeze, rank).sent


def _in_words(spec: ModelSpec, freeze: Sequence[str], rank: int, start: int) -> str:
    """What the factors take in place of whole gradients."""
    found = count_exchanged(spec, freeze, rank)
    return (
        f"from step {start:,} on gradients of {byte_size(4 * found.whole)} are sent as "
        f"{byte_size(4 * found.sent)}, {found.whole / found.sent:.3g} times less; "
        f"their errors take {byte_size(4 * found.apart)} on every device"
    )
