"""report.html: a run on one page that needs nothing but itself."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from lumina import quantities as q
from lumina.durable import write_error, write_file
from lumina.errors import LuminaError
from lumina.observe import curves
from lumina.observe.by_source import source_charts, source_figures
from lumina.observe.data_found import data_rows
from lumina.observe.findings import find
from lumina.observe.reported import part_keys
from lumina.state.json_lines import read_json_lines
from lumina.state.manifest import read_manifest
from lumina.state.reader import read_pointer, step_folders
from lumina.state.run_directory import RunDirectory

MOST_EVENTS = 300
_SETTING = re.compile(r"  (\w+): (.*?)(?:  # (.*))?")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def write_report(
    run_dir: str | os.PathLike[str],
    *,
    samples: Sequence[tuple[str, str]] = (),
    results: Mapping[str, str] | None = None,
) -> Path:
    """Writes RUN/report.html from the files of the run, in one go.

    Args:
        run_dir: the run directory; whatever it lacks is left out of the page.
        samples: (prompt, continuation) pairs to show.
        results: further figures by name, such as scores of a benchmark.

    Returns:
        The page.

    Raises:
        LuminaError: E104 when there is no such folder, E101 for a broken file in it,
            E106 or E204 when the page cannot be written.
    """
    run = RunDirectory(run_dir)
    if not run.path.is_dir():
        raise LuminaError("E104", f"{run.path} does not exist", "check the path")
    page = _template().render(_content(run, samples, results or {}))
    try:
        write_file(run.report, page.encode("utf-8", "replace"))
    except OSError as error:
        raise write_error(error, run.report) from error
    return run.report


@cache
def _template() -> jinja2.Template:
    source = resources.files("lumina.observe").joinpath("report.html.jinja")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    return environment.from_string(source.read_text(encoding="utf-8"))


def _printable(value: Any) -> Any:
    """Characters that no HTML document may hold become a visible replacement."""
    if isinstance(value, str) and _CONTROL.search(value):
        return type(value)(_CONTROL.sub("\ufffd", value))
    return value


def _content(
    run: RunDirectory, samples: Sequence[tuple[str, str]], results: Mapping[str, str]
) -> dict[str, Any]:
    """Everything the template shows."""
    rows = read_json_lines(run.metrics) if run.metrics.exists() else []
    events = read_json_lines(run.events) if run.events.exists() else []
    plan = _json(run.plan)
    shown = [event for event in events if event.get("severity") != "debug"]
    return {
        "name": run.path.resolve().name,
        "written": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "status": (run.status() or {}).get("status", "unknown"),
        "about": _about(run.status() or {}, events),
        "figures": _figures(rows, plan),
        "charts": _charts(rows, plan),
        "size": {"w": curves.WIDTH, "h": curves.HEIGHT, "x": curves.LEFT},
        "data": data_rows(events),
        "findings": find(rows, plan),
        "samples": list(samples),
        "results": dict(results),
        **_settings(run.config),
        "plan": _plan(plan),
        "warnings": plan.get("warnings", []),
        "checkpoints": _checkpoints(run.checkpoints),
        "events": [_event(event) for event in shown[-MOST_EVENTS:]],
        "earlier_events": max(len(shown) - MOST_EVENTS, 0),
    }


def _json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LuminaError(
            "E101", f"{path} is not JSON: {error}", "restore the file, or remove it"
        ) from None
    return values if isinstance(values, dict) else {}


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> list[curves.Point]:
    """(step, value) of the rows that have a finite number there."""
    pairs = ((float(row["step"]), _number(row.get(key))) for row in rows)
    return [(step, value) for step, value in pairs if value is not None]


def _number(value: Any) -> float | None:
    """A number, or the mean of a list of them (one for each layer)."""
    if isinstance(value, list):
        numbers = [n for item in value if (n := q.known(item)) is not None]
        return sum(numbers) / len(numbers) if numbers else None
    return q.known(value)


def _about(
    status: Mapping[str, Any], events: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str]]:
    """(name, text): why the run ended, and what it was started with."""
    facts_shown = []
    reason = (status.get("data") or {}).get("reason")
    if not reason:  # a run that failed says why in its last event of that kind
        failed = [e for e in events if e.get("kind") == "run_failed"]
        last = failed[-1] if failed and status.get("status") == "failed" else {}
        reason = " ".join(filter(None, (last.get("code"), last.get("message"))))
    if reason:
        facts_shown.append(("ended", f"{reason} (step {status.get('step')})"))
    starts = [e for e in events if e.get("kind") == "run_started"]
    for number, start in enumerate(starts):
        name = "command" if number == 0 else f"resumed at step {start.get('step')}"
        facts_shown.append((name, str((start.get("data") or {}).get("command"))))
    if starts:
        facts = starts[-1].get("data") or {}
        counts = (f"{q.count(n)} {k}" for k, n in (facts.get("counts") or {}).items())
        data = ", ".join(map(str, facts.get("data") or []))
        facts_shown.append(("data", f"{data} ({', '.join(counts).replace('_', ' ')})"))
        versions = (f"{name} {facts.get(name)}" for name in ("lumina", "torch"))
        facts_shown.append(
            ("software", ", ".join([*versions, f"Python {facts.get('python')}"]))
        )
        facts_shown.append(("device", str(facts.get("device"))))
    return facts_shown


def _figures(
    rows: Sequence[Mapping[str, Any]], plan: Mapping[str, Any]
) -> list[tuple[str, str, str]]:
    """(name, figure, remark) of the tiles at the top."""
    last = rows[-1] if rows else {}
    steps = f"of {q.count(plan['steps'])}" if "steps" in plan else ""
    figures = [("steps", q.count(last.get("step")), steps)]
    figures.append(("tokens", q.count(last.get("tokens")), _epochs(last)))
    losses = _series(rows, "loss")
    if losses:
        tail = losses[-max(len(losses) // 50, 1) :]
        mean = sum(loss for _, loss in tail) / len(tail)
        remark = f"mean of the last {len(tail)}" if len(tail) > 1 else ""
        figures.append(("training loss", q.decimal(mean), remark))
    evaluated = _series(rows, "eval_loss")
    if evaluated:
        step, best = min(evaluated, key=lambda pair: pair[1])
        remark = f"perplexity {q.perplexity(best)}, step {step:,.0f}"
        figures.append(("best held-out loss", q.decimal(best), remark))
    figures += source_figures(rows)
    seconds = sum(s for _, s in _series(rows, "step_seconds"))
    if seconds:
        figures.append(("time in steps", q.clock(seconds), ""))
    rates = sorted(rate for _, rate in _series(rows, "tokens_per_second"))
    if rates:
        figures.append(("tokens/s", q.rate(rates[len(rates) // 2]), "median"))
        used = sorted(mfu for _, mfu in _series(rows, "mfu"))
        remark = "median" if used else "peak of the device not known"
        figures.append(("MFU", q.share(used[len(used) // 2] if used else None), remark))
    peaks = [peak for _, peak in _series(rows, "memory_peak_bytes")]
    if peaks:
        figures.append(("peak memory", q.byte_size(max(peaks)), "rank 0"))
    if last.get("skipped"):
        figures.append(("skipped steps", q.count(last["skipped"]), "not finite"))
    empty = sum(row.get("loss_tokens") == 0 for row in rows)
    if empty:
        figures.append(("steps without a label", q.count(empty), "nothing learned"))
    if plan.get("parameters"):
        active = plan.get("active_parameters")
        differs = active and active != plan["parameters"]
        remark = f"{q.count(active)} used for a token" if differs else ""
        figures.append(("parameters", q.count(plan["parameters"]), remark))
    return figures


def _epochs(row: Mapping[str, Any]) -> str:
    epoch = q.known(row.get("epoch"))
    return f"{epoch:.2f} epochs" if epoch is not None else ""


def _charts(
    rows: Sequence[Mapping[str, Any]], plan: Mapping[str, Any]
) -> list[curves.Chart]:
    """The curves there are numbers for."""
    loss, perplexed = _series(rows, "loss"), _series(rows, "eval_loss")
    drawn = [
        curves.draw(
            "Loss (nats per token)",
            [
                curves.Series("each step", loss, "faint"),
                curves.Series("smoothed", curves.smooth(loss), "main"),
                curves.Series("held out", perplexed, "second"),
            ],
            lambda value: f"{value:.3g}",
        )
    ]
    for title, key, label in (
        ("Learning rate", "learning_rate", lambda v: f"{v:.3g}"),
        ("Gradient norm before clipping", "grad_norm", lambda v: f"{v:.3g}"),
        ("Tokens per second", "tokens_per_second", q.rate),
        ("Model FLOPs utilisation", "mfu", q.share),
        ("Busiest expert over the even share, less 1", "moe.max_violation", _short),
        ("Entropy of the expert load (nats)", "moe.load_entropy", _short),
    ):
        points = _series(rows, key)
        drawn.append(curves.draw(title, [curves.Series("value", points)], label))
    parts = (plan.get("spec") or {}).get("parts")
    for key in part_keys(rows[0] if rows else {}, parts):
        points = _series(rows, key)
        drawn.append(curves.draw(key, [curves.Series("value", points)], _short))
    memory = [(x, y / 2**20) for x, y in _series(rows, "memory_allocated_bytes")]
    series = [curves.Series("value", memory)]
    drawn.insert(4, curves.draw("Memory in use (MiB)", series, lambda v: f"{v:,.4g}"))
    drawn[1:1] = source_charts(rows)
    return [chart for chart in drawn if chart is not None]


def _short(value: float) -> str:
    return f"{value:.3g}"


def _settings(path: Path) -> dict[str, list[tuple[str, str, str]]]:
    """(option, value, source) of config.yaml: those that were set, and the others.

    The file is ours and its comments are the sources, so its lines are read as they
    are; YAML would lose them.
    """
    asked: list[tuple[str, str, str]] = []
    given: list[tuple[str, str, str]] = []
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for line in text.splitlines():
        match = _SETTING.fullmatch(line)
        if match:
            source = match[3] or ""
            silent = re.match(r"(default|preset)\b", source)
            (given if silent else asked).append((match[1], match[2], source))
    return {"asked": asked, "given": given}


def _plan(plan: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(name, value, reason); those with a reason first."""
    reasons = plan.get("reasons") or {}
    skipped = ("reasons", "warnings", "features")
    switched = "features."
    rows = [
        (name, _value(name.removeprefix(switched) in plan["features"]), str(why))
        for name, why in reasons.items()
        if name.startswith(switched)
    ]
    for name, value in plan.items():
        if name in skipped:
            continue
        if isinstance(value, Mapping):
            rows += [
                (f"{name}.{inner}", _value(v, name == "memory"), "")
                for inner, v in value.items()
            ]
        else:
            rows.append((name, _value(value), str(reasons.get(name, ""))))
    return sorted(rows, key=lambda row: not row[2])


def _value(value: Any, is_bytes: bool = False) -> str:
    if is_bytes:
        return q.byte_size(value)
    if value is None:
        return q.UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}"
    return json.dumps(value, ensure_ascii=False)


def _checkpoints(folder: Path) -> list[tuple[str, str, str, str]]:
    """(name, kinds, bytes, remark) of the checkpoints that are kept."""
    named = {name: read_pointer(folder, name) for name in ("LATEST", "BEST")}
    rows = []
    for _, path in step_folders(folder):
        marks = [name for name, target in named.items() if target == path]
        try:
            manifest = read_manifest(path)
        except LuminaError as error:
            rows.append((path.name, q.UNKNOWN, q.UNKNOWN, error.message))
            continue
        total = sum(entry.bytes for entry in manifest.files.values())
        rows.append(
            (path.name, ", ".join(manifest.kinds), q.byte_size(total), " ".join(marks))
        )
    return rows


def _event(event: Mapping[str, Any]) -> dict[str, str]:
    moment = q.known(event.get("time"))
    step = event.get("step")
    severity = str(event.get("severity", "info"))
    return {
        "time": datetime.fromtimestamp(moment).strftime("%m-%d %H:%M:%S")
        if moment is not None
        else q.UNKNOWN,
        "step": f"{step:,}" if isinstance(step, int) else q.UNKNOWN,
        "kind": str(event.get("kind", "")),
        "severity": severity,
        "level": severity if severity in ("warning", "error", "critical") else "info",
        "code": str(event.get("code") or ""),
        "message": str(event.get("message", "")),
    }
