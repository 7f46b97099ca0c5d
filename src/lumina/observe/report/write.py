"""Writes report.html: everything gathered, rendered and kept below a size."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from lumina.durable import write_error, write_file
from lumina.observe.data_found import data_rows
from lumina.observe.report import curves
from lumina.observe.report.decisions import about_anomalies, decisions
from lumina.observe.report.earlier import charts as charts_beside
from lumina.observe.report.earlier import comparison
from lumina.observe.report.few_bits import few_bits
from lumina.observe.report.findings import find
from lumina.observe.report.go_on import commands
from lumina.observe.report.headline import facts, figures, sentence
from lumina.observe.report.kept import checkpoints, shortened, shown_events
from lumina.observe.report.marks import KINDS, marks
from lumina.observe.report.page import render
from lumina.observe.report.record import Record, read_record
from lumina.observe.report.routing import expert_loads
from lumina.observe.report.samples import samples as sampled
from lumina.observe.report.settings import choices, settings
from lumina.state.left_behind import leave_results, leave_samples
from lumina.state.run_directory import RunDirectory

MOST_BYTES = 1_000_000
"""Of the page, whatever the length of the run."""

EVENTS = 300
LONGEST_TEXT = 4000


def write_report(
    run_dir: str | os.PathLike[str],
    *,
    samples: Sequence[tuple[str, str]] = (),
    results: Mapping[str, str] | None = None,
) -> Path:
    """Writes RUN/report.html from the files of the run, in one go.

    Args:
        run_dir: the run directory; whatever it lacks is left out of the page.
        samples: (prompt, continuation) pairs of the last step. They are kept in
            RUN/samples.jsonl, so that the page can be written again.
        results: further figures by name, such as scores of a benchmark; kept in
            RUN/results.json.

    Returns:
        The page.

    Raises:
        LuminaError: E104 when there is no such folder, E101 for a broken file in it,
            E106 or E204 when the page cannot be written.
    """
    run = RunDirectory(run_dir)
    record = read_record(run)
    if samples or results:
        leave_samples(run, int(record.metrics.last.get("step") or 0), samples)
        leave_results(run, results or {})
        record = read_record(run)
    page = _within_bounds(record)
    try:
        write_file(run.report, page)
    except OSError as error:
        raise write_error(error, run.report) from error
    return run.report


def _within_bounds(record: Record) -> bytes:
    """The page, with less of what can be long where it would be too large."""
    page = b""
    for budget in _budgets():
        page = render(content(record, budget)).encode("utf-8", "replace")
        if len(page) <= MOST_BYTES:
            break
    return page


def _budgets() -> Iterator[float]:
    budget = 1.0
    while budget > 0.001:
        yield budget
        budget /= 2


def content(record: Record, budget: float) -> dict[str, Any]:
    """Everything the template shows.

    Args:
        record: the run.
        budget: share of the usual length of curves, events and texts.
    """
    run, plan, metrics = record.run, record.plan, record.metrics
    longest = max(int(LONGEST_TEXT * budget), 40)
    events, earlier = shown_events(
        record.events, max(int(EVENTS * budget), 10), min(longest, 1000)
    )
    groups = curves.groups(metrics, plan, budget, charts_beside(record))
    asked, given = settings(record.settings)
    why, others = choices(plan)
    return {
        "name": run.path.resolve().name,
        "written": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "status": record.state,
        "sentence": sentence(record),
        "facts": facts(record),
        "figures": figures(record),
        "groups": groups,
        "marks": marks(record),
        "kinds": KINDS,
        "axes": curves.axes(metrics),
        "data": data_rows(record.events),
        "findings": find(metrics, plan),
        "warnings": plan.get("warnings", []),
        "samples": sampled(record, longest),
        "loads": expert_loads(record),
        "few_bits": few_bits(record, budget),
        "decisions": decisions(record),
        "anomalies": _short(about_anomalies(record), longest),
        "earlier": comparison(record),
        "commands": commands(record),
        "asked": _short(asked, longest),
        "given": _short(given, longest),
        "why": _short(why, longest),
        "others": _short(others, longest),
        "checkpoints": checkpoints(run.checkpoints),
        "events": events,
        "earlier_events": earlier,
        "shortened": budget < 1,
    }


def _short(rows: Sequence[tuple[str, ...]], longest: int) -> list[tuple[str, ...]]:
    return [tuple(shortened(cell, longest) for cell in row) for row in rows]
