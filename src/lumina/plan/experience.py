"""What earlier runs say about an action: counts of the Plan, and confidence from them.

The counts are decided before a run begins and stand in its Plan, so that a resumed run,
a replay and all ranks come to the same confidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lumina.model.kinds.table import kinds_of
from lumina.plan.plan import Plan

LEAST = 5
"""Outcomes below which what was seen does not count."""

ANY = "any"
"""Stands in a context for every phase, and for every kind of run."""

WEIGHTS = (5.0, 10.0, 20.0)
"""How many outcomes the prior is worth beside outcomes of the same context, of the same
kind of run in any phase, and of any run: what is less alike moves it less."""

Counts = Mapping[str, Sequence[int]]
"""ANOMALY/CONTEXT/ACTION -> (successes, failures)."""


def size_class(parameters: int) -> str:
    """The power of ten that a number of parameters reaches: 124,000,000 -> 100M."""
    power = max(len(str(int(parameters))) - 1, 3)
    letter = {0: "K", 1: "M", 2: "B", 3: "T"}[min((power - 3) // 3, 3)]
    return f"{10 ** (power % 3 if power < 15 else power - 12)}{letter}"


def run_kind(plan: Plan) -> str:
    """Kind of model, size class and optimizer, such as `moe:1M:adamw`."""
    kinds = "+".join(kind.name for kind in kinds_of(plan.spec)) or "dense"
    return f"{kinds}:{size_class(plan.active_parameters)}:{plan.optimizer}"


def context_of(kind: str, phase: str) -> str:
    """The context of a decision: the kind of run, and its phase of training."""
    return f"{kind}:{phase.lower() or ANY}"


def key_of(anomaly: str, context: str, action: str) -> str:
    """The key of a count."""
    return f"{anomaly}/{context}/{action}"


@dataclass(frozen=True)
class Confidence:
    """How sure an action is, and what that rests on.

    Attributes:
        value: from 0 to 1.
        why: in words.
        successes: outcomes that count, of those seen in earlier runs.
        failures: likewise.
    """

    value: float
    why: str
    successes: int = 0
    failures: int = 0


def confidence(
    plan: Plan, prior: float, anomaly: str, phase: str, action: str
) -> Confidence:
    """The prior, moved by the outcomes that the Plan holds.

    The mean of a Beta distribution: the prior counts as some outcomes (`WEIGHTS`), and
    those that were seen are added. The narrowest context with at least `LEAST` outcomes
    is taken: the same kind of run in the same phase, else in any phase, else any run.

    Args:
        plan: of the run.
        prior: the confidence without experience, from 0 to 1.
        anomaly: what was found.
        phase: of the training, when it was found.
        action: what may be done about it.
    """
    kind = run_kind(plan) if plan.experience else ""
    levels = (
        (context_of(kind, phase), f"runs like this one in phase {phase or ANY}"),
        (context_of(kind, ANY), "runs like this one"),
        (context_of(ANY, ANY), "runs of all kinds"),
    )
    for weight, (context, where) in zip(WEIGHTS, levels, strict=True):
        seen = plan.experience.get(key_of(anomaly, context, action))
        if seen is None or sum(seen) < LEAST:
            continue
        good, bad = int(seen[0]), int(seen[1])
        value = (prior * weight + good) / (weight + good + bad)
        why = f"{good} of {good + bad} times it helped in {where} (alone {prior:.2f})"
        return Confidence(value, why, good, bad)
    return Confidence(prior, "no experience counts yet")
