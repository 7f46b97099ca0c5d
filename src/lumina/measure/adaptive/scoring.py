"""What came out: an arm against the competent one, for each stratum."""

from __future__ import annotations

import math
import statistics as st
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lumina.measure.adaptive.detection import Detection, detection, matters
from lumina.measure.adaptive.scenario import BUDGET, Scenario
from lumina.measure.adaptive.statistics import (
    interval,
    median_ratio,
    ratio_of_means,
    sign_test,
    upper_bound,
)
from lumina.measure.adaptive.texts import VOCABULARY

KNOWS_NOTHING = math.log(VOCABULARY)
"""The loss of a model that gives every token the same chance."""

MARGIN, HORIZON = 0.02, 2.0
"""How near a twin's loss counts as reached; budgets after which time is censored."""

COMPARED = "competent"

Row = Mapping[str, Any]


@dataclass
class Score:
    """An arm in a group of scenarios.

    Three numbers are a value and the ends of its interval of 95%.

    Attributes:
        arm: its name.
        group: a stratum, or a stratum and a family.
        runs: how many were made.
        missing: how many the arm should have made beside them, or refused.
        failures: by the definition of the page.
        upper: bound of the failure rate.
        loss_ratio: median of final loss over the competent arm's.
        wins, losses: scenarios that ended lower and higher than the competent arm's.
        sign: chance of so uneven a count.
        loss_over_twin: median of final loss over the twin's.
        reached: share that came to the twin's loss within the margin.
        sooner: restricted mean time of the competent arm to that loss over this arm's.
        sooner_by: the same for (margin, horizon) "0%, 2", "5%, 2" and "2%, 1".
        to_own: the same to the loss that the competent arm ends with.
        tokens: mean of tokens computed over the budget.
        time_ratio: median of seconds over the competent arm's.
        wasted_tokens: mean share of the budget that was computed in vain.
        wasted_seconds: mean seconds of attempts and steps that did not count.
        detection: of alarms and interventions.
    """

    arm: str
    group: str
    runs: int
    missing: int
    failures: int
    upper: float
    loss_ratio: tuple[float, float, float]
    wins: int
    losses: int
    sign: float
    loss_over_twin: float
    reached: float
    sooner: tuple[float, float, float]
    sooner_by: dict[str, float]
    to_own: tuple[float, float, float]
    tokens: float
    time_ratio: tuple[float, float, float]
    wasted_tokens: float
    wasted_seconds: float
    detection: Detection = field(default_factory=Detection)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, None in place of what is not a number."""
        found: dict[str, Any] = _plain(asdict(self))
        return found


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def twin_loss(scenario: Scenario, competent: Mapping[str, Row]) -> float | None:
    """The final loss of the twin under the competent arm; None: it has none."""
    row = competent.get(scenario.twin)
    return row["loss"] if row is not None and row["status"] == "done" else None


def failed(row: Row, twin: float | None) -> bool:
    """Whether a run failed: it did not end, or kept less than half of what is there."""
    if row["status"] != "done" or row["loss"] is None:
        return True
    if twin is None:
        return bool(row["loss"] > KNOWS_NOTHING)
    return bool(row["loss"] > KNOWS_NOTHING - (KNOWS_NOTHING - twin) / 2)


def final_loss(row: Row, twin: float | None) -> float:
    """The last held-out loss; that of a model that knows nothing where it failed."""
    if failed(row, twin):
        return KNOWS_NOTHING
    return min(float(row["loss"]), KNOWS_NOTHING)


def time_to(row: Row, loss: float, horizon: float = HORIZON) -> float:
    """Budgets computed until a held-out loss was reached; `horizon` where it never was.

    Between two evaluations the loss is taken to fall evenly.
    """
    before: tuple[float, float] | None = None
    for tokens, _, found in row.get("curve", ()):
        if found is None:
            before = None
            continue
        at = float(tokens)
        if found <= loss:
            if before is not None and before[1] > loss:
                share = (before[1] - loss) / (before[1] - found)
                at = before[0] + share * (at - before[0])
            return min(at / BUDGET, horizon)
        before = (at, found)
    return horizon


def wasted(row: Row) -> tuple[float, float]:
    """Budgets and seconds that were computed and did not count."""
    if row["status"] != "done":
        return row["tokens"] / BUDGET, row["seconds"]
    more = max(0, row["tokens"] - row["budget"])
    share = more / row["tokens"] if row["tokens"] else 0.0
    return more / BUDGET, row["seconds"] * share


def score(
    arm: str,
    group: str,
    scenarios: Sequence[Scenario],
    rows: Mapping[str, Row],
    competent: Mapping[str, Row],
) -> Score | None:
    """Score an arm in a group; None where it has no run there.

    Args:
        arm: its name.
        group: for the table.
        scenarios: the group's, of those that the arm is meant to run.
        rows: of the arm, by scenario.
        competent: of the arm that it is compared with.
    """
    run = [one for one in scenarios if rows.get(one.id, {}).get("status") in RAN]
    if not run:
        return None
    both = [one for one in run if one.id in competent]
    twins = {one.id: twin_loss(one, competent) for one in run}
    bad = sum(failed(rows[one.id], twins[one.id]) for one in run)
    ends = [
        tuple(final_loss(some[one.id], twins[one.id]) for some in (rows, competent))
        for one in both
    ]
    pairs = [(first, second) for first, second in ends]
    aimed = [one for one in both if twins[one.id] is not None]

    def times(margin: float, horizon: float) -> list[tuple[float, float]]:
        return [
            (
                time_to(
                    competent[one.id], (twins[one.id] or 0) * (1 + margin), horizon
                ),
                time_to(rows[one.id], (twins[one.id] or 0) * (1 + margin), horizon),
            )
            for one in aimed
        ]

    own = [
        (time_to(competent[one.id], loss), time_to(rows[one.id], loss))
        for one in both
        if (loss := competent[one.id]["loss"]) is not None
        and competent[one.id]["status"] == "done"
    ]
    near = times(MARGIN, HORIZON)
    waste = [wasted(rows[one.id]) for one in run]
    over = [
        final_loss(rows[one.id], twin) / twin
        for one in run
        if (twin := twins[one.id]) is not None
    ]
    seconds = [(rows[o.id]["seconds"], competent[o.id]["seconds"]) for o in both]
    return Score(
        arm=arm,
        group=group,
        runs=len(run),
        missing=len(scenarios) - len(run),
        failures=bad,
        upper=upper_bound(bad, len(run)),
        loss_ratio=interval(pairs, median_ratio),
        wins=(wins := sum(a < b for a, b in pairs)),
        losses=(losses := sum(a > b for a, b in pairs)),
        sign=sign_test(wins, losses),
        loss_over_twin=st.median(over) if over else math.nan,
        reached=st.fmean(t < HORIZON for _, t in near) if near else math.nan,
        sooner=interval(near, ratio_of_means),
        sooner_by={
            words: interval(times(margin, horizon), ratio_of_means, 1)[0]
            for words, margin, horizon in (
                ("0%, 2", 0.0, 2.0),
                ("5%, 2", 0.05, 2.0),
                ("2%, 1", 0.02, 1.0),
            )
        },
        to_own=interval(own, ratio_of_means),
        tokens=st.fmean(rows[one.id]["tokens"] / BUDGET for one in run),
        time_ratio=interval(seconds, median_ratio),
        wasted_tokens=st.fmean(tokens for tokens, _ in waste),
        wasted_seconds=st.fmean(some for _, some in waste),
        detection=detection(run, rows, competent, twins),
    )


RAN = ("done", "failed")
"""States of a run that was made; one that was refused was not."""


MATTER = "misconfigured, where it matters"
"""The group of settings that cost the competent arm 5% of its loss and more."""


def groups(
    scenarios: Iterable[Scenario],
    *,
    families: bool,
    competent: Mapping[str, Row] | None = None,
) -> dict[str, list[Scenario]]:
    """By stratum, then all; with `families` also by stratum and family.

    With the rows of the competent arm there is a group of the settings that matter.
    """
    found: dict[str, list[Scenario]] = {}
    everything = list(scenarios)
    for one in everything:
        found.setdefault(one.stratum, []).append(one)
    found["all"] = everything
    if competent is not None:
        found[MATTER] = [
            one
            for one in everything
            if one.stratum == "misconfigured"
            and matters(competent.get(one.id), twin_loss(one, competent))
        ]
    if families:
        for one in everything:
            if one.stratum != "clean":
                found.setdefault(f"{one.stratum}: {one.family}", []).append(one)
    return found
