"""The scores as Markdown, and as plots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lumina.measure.adaptive.scenario import Scenario
from lumina.measure.adaptive.scoring import (
    COMPARED,
    HORIZON,
    MARGIN,
    RAN,
    Row,
    Score,
    time_to,
    twin_loss,
)
from lumina.observe.log_plot import Line, plot

HEAD = (
    "arm", "stratum", "runs", "failures", "upper 95%", "loss / competent", "sign test",
    "twin's loss reached", "sooner", "sooner to competent's end", "tokens", "time",
    "wasted s", "recall", "precision", "clean touched",
)  # fmt: skip


def table(scores: Sequence[Score]) -> str:
    """A Markdown table, a line for each score."""
    lines = [HEAD, tuple("---" for _ in HEAD), *(_cells(one) for one in scores)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cells(one: Score) -> tuple[str, ...]:
    found = one.detection
    return (
        one.arm,
        one.group,
        f"{one.runs}" + (f" ({one.missing} missing)" if one.missing else ""),
        f"{one.failures} ({one.failures / one.runs:.1%})",
        f"{one.upper:.1%}",
        _three(one.loss_ratio, "{:.4f}"),
        f"{one.wins}:{one.losses}, p {one.sign:.2g}",
        _share(one.reached),
        _three(one.sooner, "{:.2f}"),
        _three(one.to_own, "{:.2f}"),
        f"{one.tokens:.3f}",
        _three(one.time_ratio, "{:.2f}"),
        f"{one.wasted_seconds:.1f}",
        f"{found.found}/{found.there}",
        f"{found.right}/{found.interventions}",
        f"{found.touched}/{found.clean_runs}" if found.clean_runs else "",
    )


def _share(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.0%}"


def _three(some: tuple[float, float, float], form: str) -> str:
    if any(math.isnan(one) for one in some):
        return ""
    value, low, high = (form.format(one) for one in some)
    return f"{value} ({low} to {high})"


def goals(scores: Sequence[Score], arm: str) -> list[tuple[str, str, bool]]:
    """Each goal of the benchmark, what an arm came to, and whether it was met."""
    mine = {one.group: one for one in scores if one.arm == arm}
    theirs = {one.group: one for one in scores if one.arm == COMPARED}
    found: list[tuple[str, str, bool]] = []
    for group in ("misconfigured", "fault"):
        a, b = mine.get(group), theirs.get(group)
        if a is None or b is None:
            continue
        words = (
            f"{a.failures} of {a.runs} ({a.failures / a.runs:.1%}, at most "
            f"{a.upper:.1%}); competent {b.failures} of {b.runs} "
            f"({b.failures / b.runs:.1%})"
        )
        if b.failures >= 0.15 * b.runs:
            met = a.failures <= 0.02 * a.runs
            if met and a.upper > 0.02:
                words += "; a point estimate: the bound is above"
            found.append((f"failures of {group} runs at most 2%", words, met))
        else:
            words += "; the competent arm fails in under 15%, so this goal says nothing"
            found.append((f"failures of {group} runs at most 2%", words, False))
    if wrong := mine.get("misconfigured"):
        sooner, ratio = wrong.sooner, wrong.loss_ratio
        found.append(
            (
                "misconfigured runs reach the twin's loss at least 1.3 times sooner",
                _three(sooner, "{:.2f}"),
                sooner[0] >= 1.3,
            )
        )
        found.append(
            (
                "and end at least 5% lower",
                _three(ratio, "{:.4f}"),
                ratio[0] <= 0.95,
            )
        )
    if clean := mine.get("clean"):
        touched = clean.detection.touched / max(1, clean.detection.clean_runs)
        loss, time = clean.loss_ratio, clean.time_ratio
        found += [
            (
                "clean loss at most 0.3% higher",
                _three(loss, "{:.4f}"),
                loss[0] <= 1.003,
            ),
            ("clean time at most 3% longer", _three(time, "{:.3f}"), time[0] <= 1.03),
            (
                "interventions in at most 5% of clean runs",
                f"{touched:.1%}",
                touched <= 0.05,
            ),
        ]
    if overall := mine.get("all"):
        some = overall.detection
        for words, right, of, least in (
            ("recall at least 95%", some.found, some.there, 0.95),
            ("precision at least 90%", some.right, some.interventions, 0.90),
        ):
            text = f"{right} of {of}" + (f" ({right / of:.1%})" if of else "")
            found.append((words, text, bool(of) and right / of >= least))
    return found


def goals_table(scores: Sequence[Score], arm: str) -> str:
    """The goals as a Markdown table."""
    lines = ["| Goal | Measured | Met |", "|---|---|---|"]
    for words, text, met in goals(scores, arm):
        lines.append(f"| {words} | {text} | {'yes' if met else 'no'} |")
    return "\n".join(lines)


def plots(
    scenarios: Sequence[Scenario], rows: Mapping[str, Mapping[str, Row]]
) -> dict[str, str]:
    """SVG files by name: for each stratum, who has come to the twin's loss by when."""
    competent = rows.get(COMPARED, {})
    found: dict[str, str] = {}
    for stratum in sorted({one.stratum for one in scenarios}):
        lines = []
        for arm, some in rows.items():
            times = sorted(
                time_to(some[one.id], twin * (1 + MARGIN))
                for one in scenarios
                if one.stratum == stratum
                and some.get(one.id, {}).get("status") in RAN
                and (twin := twin_loss(one, competent)) is not None
            )
            reached = [time for time in times if time < HORIZON]
            if not times:
                continue
            points: list[tuple[float, float]] = [(0.05, 0.0)]
            for number, time in enumerate(reached):
                points += [
                    (time, number / len(times)),
                    (time, (number + 1) / len(times)),
                ]
            points.append((HORIZON, len(reached) / len(times)))
            lines.append(Line(arm, points, faint=arm != COMPARED and len(times) < 50))
        if lines:
            found[f"reached-{stratum}.svg"] = plot(
                f"{stratum}: share of runs at their twin's loss (within {MARGIN:.0%})",
                "tokens computed, in budgets",
                "share",
                lines,
            )
    return found


def as_json(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """For a file."""
    return [one.to_dict() for one in scores]
