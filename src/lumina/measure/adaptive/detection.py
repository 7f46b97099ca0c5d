"""Whether trouble was found, how soon, and how often where there was none."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lumina.measure.adaptive.families import RESTART
from lumina.measure.adaptive.scenario import Scenario

WITHIN = 40
"""Steps after a fault in which it has to be found."""

MATTERS = 0.05
"""How far above its twin the competent arm has to end for a setting to be wrong."""

CASE_OF = {
    "high_rate": "divergence",
    "low_rate": "slow_learning",
    "large_epsilon": "slow_learning",
    "narrow_first_weights": "slow_learning",
    "short_second_moment": "divergence",
    "group_norm_outlier": "exploding_gradients",
}
"""Kinds of alarms that came later -> the kind of the population that each is a case of.
The scenarios and what they expect stay as they were generated."""

Row = Mapping[str, Any]


@dataclass
class Detection:
    """What alarms and interventions were worth.

    Attributes:
        there: scenarios with something to find.
        found: of these, those in which it was found.
        delay: median steps from a fault to its detection; None: none was found.
        interventions: changes that were made.
        right: of these, those of an expected kind, not before what is wrong.
        clean_runs: clean scenarios.
        touched: of these, those with an intervention.
    """

    there: int = 0
    found: int = 0
    delay: float | None = None
    interventions: int = 0
    right: int = 0
    clean_runs: int = 0
    touched: int = 0


def acted(decision: Mapping[str, Any]) -> bool:
    """Whether a decision changed the run: not an alarm, nor shadow, nor nothing."""
    return decision["action"] not in ("", "nothing") and decision.get("mode") == "on"


def detection(
    scenarios: Sequence[Scenario],
    rows: Mapping[str, Row],
    competent: Mapping[str, Row],
    twins: Mapping[str, float | None],
) -> Detection:
    """Judge the decisions of an arm's runs.

    Args:
        scenarios: those that were run.
        rows: of the arm, by scenario.
        competent: of the arm that it is compared with.
        twins: final loss of each scenario's twin.
    """
    result = Detection()
    delays: list[int] = []
    for one in scenarios:
        row = rows[one.id]
        decisions = row["decisions"]
        changes = [some for some in decisions if acted(some)]
        if one.natural:
            continue
        result.interventions += len(changes)
        if one.stratum == "clean":
            result.clean_runs += 1
            result.touched += bool(changes)
            continue
        first = min((fault["step"] for fault in row["faults"]), default=0)
        expected = [
            some
            for some in decisions
            if CASE_OF.get(some["kind"], some["kind"]) in one.expects
            and some["step"] >= first
        ]
        result.right += sum(acted(some) for some in expected)
        if one.stratum == "misconfigured":
            if not matters(competent.get(one.id), twins[one.id]):
                continue
            result.there += 1
            result.found += bool(expected)
            continue
        if not row["faults"]:
            continue
        result.there += 1
        if set(one.expects) == set(RESTART):
            result.found += (
                len(row["attempts"]) > 1 or row["notes"].get("restarts", 0) > 0
            )
            continue
        within = [some["step"] - first for some in expected]
        within = [delay for delay in within if delay <= WITHIN]
        result.found += bool(within)
        if within:
            delays.append(min(within))
    if delays:
        result.delay = statistics.median(delays)
    return result


def matters(row: Row | None, twin: float | None) -> bool:
    """Whether a setting is wrong enough to be found.

    Args:
        row: of the competent arm; None: it has not been run.
        twin: final loss of the twin.
    """
    if row is None or twin is None:
        return False
    return bool(row["status"] != "done" or row["loss"] > twin * (1 + MATTERS))
