"""The run in one sentence, and its main figures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import numpy as np

from lumina import quantities as q
from lumina.model.kinds.table import titles
from lumina.observe.by_source import source_figures
from lumina.observe.report.metrics import Metrics
from lumina.observe.report.record import Record, data_of

Figure = tuple[str, str, str]
"""Name, figure, remark."""


def sentence(record: Record) -> str:
    """What was trained on what, how long, on which hardware, and how it ended."""
    metrics, facts = record.metrics, record.facts
    parts = [_model(record)]
    data = ", ".join(map(str, facts.get("data") or []))
    if data:
        parts.append(f"on {data}")
    step = q.known(metrics.last.get("step"))
    if step is not None:
        text = f"for {_counted(step, 'step')}"
        if q.known(metrics.last.get("tokens")) is not None:
            text += f" ({q.count(metrics.last['tokens'])} tokens{_passes(metrics)})"
        parts.append(text)
    seconds = metrics.values("step_seconds").sum()
    if seconds:
        parts.append(f"in {q.duration(seconds)} of steps")
    if facts.get("device"):
        world = int(record.plan.get("world_size") or 1)
        ranks = f"{world} processes on " if world > 1 else ""
        kind = record.plan.get("compute_dtype")
        parts.append(f"on {ranks}{facts['device']}" + (f" in {kind}" if kind else ""))
    best = best_evaluation(metrics)
    told = " ".join(parts) + "."
    if best is not None:
        at, loss = best
        told += (
            f" The best held-out loss is {q.decimal(loss)} (perplexity "
            f"{q.perplexity(loss)}), at step {at:,.0f}."
        )
    return told


def _model(record: Record) -> str:
    plan, spec = record.plan, record.spec
    named = [title for name, title in titles().items() if spec.get(name)]
    kind = " and ".join(named) or ("dense transformer" if spec else "model")
    size = ""
    if plan.get("parameters"):
        size = f"with {q.count(plan['parameters'])} parameters "
        active = plan.get("active_parameters")
        if active and active != plan["parameters"]:
            size += f"({q.count(active)} used for a token) "
    source = setting(record, "init_from")
    how = f"trained on from {source}" if source else "trained from scratch"
    return f"A {kind} {size}{how}"


def setting(record: Record, name: str) -> str | None:
    """A value of config.yaml as it stands there; None for null and no value."""
    found = re.search(rf"^  {name}: (.*?)(?:  # .*)?$", record.settings, re.MULTILINE)
    return None if found is None or found[1] == "null" else found[1].strip("'\"")


def best_evaluation(metrics: Metrics) -> tuple[float, float] | None:
    """(step, loss) of the lowest held-out loss."""
    column = metrics.column("eval_loss")
    if not len(column):
        return None
    best = int(column.values.argmin())
    return float(column.steps[best]), float(column.values[best])


def ending(record: Record) -> str:
    """Why the run ended, in words; empty while it is running."""
    reason = data_of(record.status).get("reason")
    if not reason and record.status.get("status") == "failed":
        # A run that failed says why in its last event of that kind.
        failed = [e for e in record.events if e.get("kind") == "run_failed"]
        last = failed[-1] if failed else {}
        reason = " ".join(filter(None, (last.get("code"), last.get("message"))))
    if record.state == "killed":
        step = record.metrics.last.get("step")
        return f"its process ended without a word; the last row is of step {step}"
    return f"{reason} (step {record.status.get('step')})" if reason else ""


def facts(record: Record) -> list[tuple[str, str]]:
    """(name, text): how it ended, commands, data, hardware and software."""
    shown = []
    if reason := ending(record):
        shown.append(("ended", reason))
    for number, start in enumerate(record.starts):
        name = "command" if number == 0 else f"resumed at step {start.get('step')}"
        phase = data_of(start).get("phase")
        text = str(data_of(start).get("command"))
        shown.append((name, f"{text} (phase {phase})" if phase else text))
    if when := _when(record):
        shown.append(("time", when))
    found = record.facts
    if not found:
        return shown
    counts = (f"{q.count(n)} {k}" for k, n in (found.get("counts") or {}).items())
    data = ", ".join(map(str, found.get("data") or []))
    shown.append(("data", f"{data} ({', '.join(counts).replace('_', ' ')})"))
    shown.append(("hardware", ", ".join(_hardware(record, found))))
    versions = [f"{name} {found.get(name)}" for name in ("lumina", "torch")]
    shown.append(("software", ", ".join([*versions, f"Python {found.get('python')}"])))
    return shown


def _hardware(record: Record, found: Mapping[str, Any]) -> Iterator[str]:
    yield str(found.get("device"))
    machine = found.get("hardware") or {}
    if machine.get("device_memory_bytes"):
        yield f"{q.byte_size(machine['device_memory_bytes'])} of device memory"
    if machine.get("cores"):
        yield _counted(machine["cores"], "CPU core")
    if machine.get("host_memory_bytes"):
        yield f"{q.byte_size(machine['host_memory_bytes'])} of host memory"
    world = record.plan.get("world_size")
    if world:
        yield f"{world} {'process' if world == 1 else 'processes'}"


def _when(record: Record) -> str:
    """From the first start to the last row, and how much of that went into steps."""
    begun = q.known(record.starts[0].get("time")) if record.starts else None
    ended = q.known(record.metrics.last.get("time"))
    if begun is None or ended is None:
        return ""
    begin, end = (
        datetime.fromtimestamp(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
        for moment in (begun, ended)
    )
    return f"{begin} to {end}, {q.duration(ended - begun)}"


def figures(record: Record) -> list[Figure]:
    """The tiles at the top."""
    metrics, plan = record.metrics, record.plan
    last = metrics.last
    of = f"of {q.count(plan['steps'])}" if plan.get("steps") else ""
    shown = [("steps", q.count(last.get("step")), of)]
    epochs = q.known(last.get("epoch"))
    remark = f"{epochs:.2f} epochs" if epochs is not None else ""
    shown.append(("tokens", q.count(last.get("tokens")), remark))
    shown += _losses(metrics)
    shown += source_figures(list(metrics.recent))
    shown += _speed(metrics)
    if last.get("skipped"):
        shown.append(("skipped steps", q.count(last["skipped"]), "not finite"))
    empty = int((metrics.values("loss_tokens") == 0).sum())
    if empty:
        shown.append(("steps without a label", q.count(empty), "nothing learned"))
    if plan.get("parameters"):
        active = plan.get("active_parameters")
        differs = active and active != plan["parameters"]
        remark = f"{q.count(active)} used for a token" if differs else ""
        shown.append(("parameters", q.count(plan["parameters"]), remark))
    shown += [(name, _plain(value), "") for name, value in record.results.items()]
    return shown


def _losses(metrics: Metrics) -> Iterator[Figure]:
    losses = metrics.values("loss")
    if len(losses):
        tail = losses[-max(len(losses) // 50, 1) :]
        remark = f"mean of the last {len(tail)}" if len(tail) > 1 else ""
        yield "training loss", q.decimal(float(tail.mean())), remark
    best = best_evaluation(metrics)
    if best is not None:
        step, loss = best
        remark = f"perplexity {q.perplexity(loss)}, step {step:,.0f}"
        yield "best held-out loss", q.decimal(loss), remark


def _speed(metrics: Metrics) -> Iterator[Figure]:
    seconds = float(metrics.values("step_seconds").sum())
    if seconds:
        yield "time in steps", q.clock(seconds), ""
    rates, used = metrics.values("tokens_per_second"), metrics.values("mfu")
    if len(rates):
        yield "tokens/s", q.rate(float(np.median(rates))), "median"
        remark = "median" if len(used) else "peak of the device not known"
        yield "MFU", q.share(float(np.median(used)) if len(used) else None), remark
    peaks = metrics.values("memory_peak_bytes")
    if len(peaks):
        yield "peak memory", q.byte_size(float(peaks.max())), "rank 0"


def _passes(metrics: Metrics) -> str:
    epochs = q.known(metrics.last.get("epoch"))
    return f", {epochs:.2f} passes" if epochs is not None else ""


def _counted(number: float, noun: str) -> str:
    return f"{number:,.0f} {noun}" + ("" if number == 1 else "s")


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
