"""Phases of a run: the settings of each, and the way from one to the next.

A phase begins with the last weights of the phase before, as a run with `--init-from`
does: its optimizer, its schedule and its position in the data are new. It goes on in
the same directory, and its steps are counted on. The way into it always leads through
the checkpoint at the end of the phase before, so a run that is killed at the transition
does the same as one that is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lumina.config import Config, Source
from lumina.config.phase_entries import (
    BASE_RATIO,
    OF_HYBRID,
    RECOMMENDED,
    Phase,
    context_points,
    mode_weights,
    phases_of,
)
from lumina.config.source_entries import in_words, source_paths
from lumina.errors import LuminaError
from lumina.plan.batching import DEFAULT_GLOBAL_BATCH
from lumina.plan.decisions import asked_for
from lumina.state.reader import CheckpointReader

WARMUP_STEPS = 500
"""Warm-up of the second phase of hybrid; the plan keeps it to a tenth of the phase."""


@dataclass(frozen=True)
class Turn:
    """A phase that begins where another ended.

    Attributes:
        checkpoint: the last one of the phase before.
        step: completed steps, `tokens` and `skipped` likewise, of the whole run.
        journal: the changes of the phases before.
        plan: what was decided for the phase before.
    """

    checkpoint: Path
    step: int
    tokens: int
    skipped: int
    journal: list[dict[str, Any]] = field(default_factory=list)
    plan: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Which phase a run is in.

    Attributes:
        index: of the phase, from 0.
        begin: completed steps when it began.
        turn: the end of the phase before, where this one has no checkpoint yet.
    """

    index: int = 0
    begin: int = 0
    turn: Turn | None = None


def place_of(
    phases: tuple[Phase, ...], reader: CheckpointReader | None, after: int | None
) -> Place:
    """The phase that a run is in, or begins now.

    Args:
        phases: all of them.
        reader: the checkpoint that the run goes on from; None for a new run.
        after: the phase that has just ended in this process, if one has.
    """
    if reader is None:
        return Place()
    meta = reader.meta
    held = meta.extra.get("phase") or {"index": 0, "begin": 0, "done": False}
    index, begin = int(held["index"]), int(held["begin"])
    over = held["done"] or after == index
    if not over or index + 1 >= len(phases):
        return Place(index, begin)
    turn = Turn(
        reader.path,
        meta.step,
        meta.counters["tokens"],
        meta.counters["skipped"],
        [_ended(change, phases[index].name) for change in meta.journal],
        meta.plan,
    )
    return Place(index + 1, meta.step, turn)


def plan_before(
    place: Place, reader: CheckpointReader | None
) -> Mapping[str, Any] | None:
    """The Plan that the run was decided by so far; None for a new run.

    Args:
        place: where the run is.
        reader: the checkpoint that it goes on from.
    """
    if place.turn is not None:
        return place.turn.plan
    return reader.meta.plan if reader is not None else None


def _ended(change: dict[str, Any], phase: str) -> dict[str, Any]:
    """A change of a phase that is over: it no longer holds."""
    if change["outcome"] != "applied":
        return change
    return change | {"outcome": f"ended with the phase {phase}"}


def phase_config(config: Config, index: int) -> Config:
    """The settings of one phase: those of the run, and over them its own.

    Raises:
        LuminaError: as `Config` does for values that make no sense together.
    """
    phase = phases_of(config)[index]
    mode = config.stages.training_mode
    options: dict[str, object] = {
        leaf: None for leaf in OF_HYBRID if config.get(leaf) is not None
    }
    options |= {"phases": (), "training_mode": None, **phase.options}
    if options["training_mode"] == "hybrid":  # one phase of both
        options["training_mode"] = "interleaved"
    if config.stages.context_schedule:
        options |= {"context_schedule": (), **_same_tokens(config, index)}
    if index == 0 and not config.train.init_from:
        if "preserve_base_knowledge" in phase.options:
            raise LuminaError(
                "E002",
                f"the phase {phase.name} is to preserve_base_knowledge, and begins "
                "with random weights",
                "set it in a later phase, or name --init-from",
            )
        options["preserve_base_knowledge"] = False
    config = config.override(options, Source("flag", f"phase {phase.name}"))
    return with_mode(config, second_of_hybrid=mode == "hybrid" and index == 1)


def _same_tokens(config: Config, index: int) -> dict[str, object]:
    """The rows of a step, so that it has as many tokens as with the first length.

    The warm-up is that of the whole run, which the plan of a phase takes over.
    """
    lengths = [length for _, length in context_points(config)]
    rows = config.train.global_batch_size or DEFAULT_GLOBAL_BATCH
    scaled = max(1, round(rows * lengths[0] / lengths[index]))
    return {
        "global_batch_size": scaled,
        **dict.fromkeys(("batch_size", "grad_accum", "warmup_steps")),
    }


def schedule_steps(config: Config, rows: int | None) -> int | None:
    """The steps of a run whose rows grow; None for another run.

    Args:
        config: the settings of the whole run.
        rows: rows of one pass at the first length.
    """
    if not config.stages.context_schedule:
        return None
    first = phase_config(config, 0).train
    if first.epochs is None or first.steps is not None:
        return config.train.steps
    batch = first.global_batch_size or 1
    return max(1, math.ceil((config.train.epochs or 1.0) * (rows or 1) / batch))


def with_mode(config: Config, second_of_hybrid: bool = False) -> Config:
    """The settings with the shares of a training mode, and what it recommends.

    A recommended value is taken where the option was not set for this run. The length
    of a row stays what a preset says, for its model was made for it.

    Args:
        config: the settings of a run, or of one of its phases.
        second_of_hybrid: it follows the base phase of hybrid.
    """
    mode = config.stages.training_mode
    if mode is None:
        return config
    names = tuple(source_paths(config))
    decided: dict[str, tuple[object, str]] = {}
    if len(names) == 2 and not config.mixture.source_schedule:
        ratio = config.stages.base_finetuning_ratio
        weights = mode_weights(mode, BASE_RATIO if ratio is None else ratio)
        entries = tuple(f"{n}={w!r}" for n, w in zip(names, weights, strict=True))
        why = f"training_mode {mode}: {in_words(names, weights)}"
        decided["source_weights"] = entries, why
    for leaf, number in RECOMMENDED.get(mode, {}).items():
        if not _open(config, leaf):
            continue
        decided[leaf] = number, f"recommended for {mode}"
        if leaf == "epochs" and config.train.steps is not None:
            decided["steps"] = None, f"{mode}: epochs say how long it is"
    if second_of_hybrid and "warmup_ratio" in decided:
        del decided["warmup_ratio"]
        decided["warmup_steps"] = WARMUP_STEPS, "recommended for the transition"
    for leaf, (value, why) in decided.items():
        config = config.override({leaf: value}, Source("decided", why))
    return config


def _open(config: Config, leaf: str) -> bool:
    """Whether an option is left to the training mode."""
    if leaf == "seq_length":
        return config.provenance[leaf].kind == "default"
    beside: Mapping[str, tuple[str, ...]] = {
        "epochs": ("steps",),
        "global_batch_size": ("batch_size", "grad_accum"),
        "warmup_ratio": ("warmup_steps",),
    }
    return not any(asked_for(config, one) for one in (leaf, *beside.get(leaf, ())))
