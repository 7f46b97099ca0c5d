"""A run's record for the experience store, from the files of the run alone."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lumina.errors import LuminaError
from lumina.plan.experience import context_of, run_kind
from lumina.plan.plan import Plan
from lumina.quantities import known
from lumina.state.decisions_made import Made, decisions_made
from lumina.state.events import read_events
from lumina.state.experience.records import MOST_POINTS, OutcomeRecord, RunRecord
from lumina.state.json_lines import iterate_json_lines
from lumina.state.liveness import state_of
from lumina.state.run_directory import RunDirectory

OPTIONS = (
    "learning_rate", "min_lr", "warmup_steps", "decay_steps", "lr_scheduler",
    "global_batch_size", "weight_decay", "beta1", "beta2", "eps", "max_grad_norm",
    "label_smoothing", "ema_decay", "compute_dtype", "seed",
)  # fmt: skip
"""Fields of the Plan that matter for the loss."""

SHAPE = ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "seq_length",
         "vocab_size")  # fmt: skip
"""Fields of the model's shape, likewise."""

LAYOUT = ("device", "world_size", "parallel", "micro_batch_size", "grad_accum",
          "gradient_checkpointing", "attention")  # fmt: skip
"""Fields of the Plan that say how the machine was used."""

FAILURES = ("step_skipped", "run_failed", "rolled_back", "training_health",
            "memory_ladder", "restarted")  # fmt: skip
"""Kinds of events that are counted."""


def record_of(run: RunDirectory) -> tuple[RunRecord, list[OutcomeRecord]]:
    """What a run was, and what came of its decisions.

    Args:
        run: a directory with plan.json, events.jsonl and metrics.jsonl.

    Raises:
        LuminaError: E104 for a missing file, E101 for a broken one, and for a run that
            never began.
    """
    events = read_events(run.path)
    starts = [event for event in events if event.get("kind") == "run_started"]
    if not starts:
        raise LuminaError("E101", f"{run.path} has not begun", "name another run")
    plan = _plan(run)
    id_, kind = _id_of(starts[0]), run_kind(plan)
    told = starts[-1].get("data")
    values: dict[str, Any] = {
        "id": id_,
        "name": _name(run.path),
        "time": float((run.status() or {}).get("time") or events[-1]["time"]),
        "status": _status(run),
        "kind": kind,
        "data": _fingerprint(told if isinstance(told, Mapping) else {}),
        "parameters": plan.parameters,
        "planned_steps": plan.steps,
        "options": {name: getattr(plan, name) for name in OPTIONS}
        | {name: getattr(plan.spec, name) for name in SHAPE},
        "machine": {name: getattr(plan, name) for name in LAYOUT}
        | _hardware(told if isinstance(told, Mapping) else {}),
        "failures": dict(
            Counter(_failure(e) for e in events if e.get("kind") in FAILURES)
        ),
    } | _course(iterate_json_lines(run.metrics) if run.metrics.exists() else ())
    try:
        outcomes = [
            OutcomeRecord.checked(_outcome(id_, kind, made))
            for made in decisions_made(events)
            if made.verdict and not made.undone
        ]
        return RunRecord.checked(values), outcomes
    except ValueError as error:
        raise LuminaError(
            "E101", f"{run.path} cannot be remembered: {error}", "mend that file"
        ) from error


def fingerprint_of(data: str) -> str:
    """The fingerprint of data, as the store keeps it."""
    return hashlib.sha256(data.encode()).hexdigest()[:16] if data else ""


def run_id(run: RunDirectory) -> str:
    """The id of a run, which it has from its first start; empty before that."""
    for event in iterate_json_lines(run.events) if run.events.exists() else ():
        if event.get("kind") == "run_started":
            return _id_of(event)
    return ""


def _id_of(start: Mapping[str, Any]) -> str:
    text = json.dumps(start, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plan(run: RunDirectory) -> Plan:
    try:
        return Plan.from_dict(json.loads(run.plan.read_text(encoding="utf-8")))
    except OSError as error:
        raise LuminaError(
            "E104", f"{run.plan} cannot be read: {error.strerror}", "name another run"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LuminaError(
            "E101", f"{run.plan} is no plan: {error}", "a resume writes it again"
        ) from error


def _status(run: RunDirectory) -> str:
    """How it ended; of a run that is writing this, as it says itself."""
    said = (run.status() or {}).get("status")
    return str(said) if said in ("finished", "interrupted", "failed") else (
        "killed" if state_of(run.path) != "running" else "interrupted"
    )  # fmt: skip


def _name(path: Path) -> str:
    name = "".join(c if c.isprintable() else "?" for c in path.resolve().name)
    return name[:200]


def _fingerprint(told: Mapping[str, Any]) -> str:
    return fingerprint_of(str(told.get("data_fingerprint") or ""))


def _failure(event: Mapping[str, Any]) -> str:
    """The kind of an event, with its code where the run ended with it."""
    kind, code = str(event["kind"]), event.get("code")
    return f"{kind}_{str(code).lower()}" if kind == "run_failed" and code else kind


def _hardware(told: Mapping[str, Any]) -> dict[str, Any]:
    hardware = told.get("hardware")
    memory = hardware.get("device_memory_bytes") if isinstance(hardware, dict) else None
    return {"name": str(told.get("device") or "")[:200], "memory_bytes": known(memory)}


def _course(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What the rows say: how far it came, its losses, and two short curves."""
    losses: list[tuple[float, float]] = []
    judged: list[tuple[float, float]] = []
    last: Mapping[str, Any] = {}
    for row in rows:
        last, tokens = row, known(row.get("tokens"))
        if tokens is None:
            continue
        for key, into in (("loss", losses), ("eval_loss", judged)):
            value = known(row.get(key))
            if value is not None and (not into or into[-1][0] < tokens):
                into.append((tokens, value))
    return {
        "steps": int(last.get("step") or 0),
        "tokens": int(last.get("tokens") or 0),
        "final_loss": losses[-1][1] if losses else None,
        "eval_loss": judged[-1][1] if judged else None,
        "best_eval_loss": min((y for _, y in judged), default=None),
        "curve": _thinned(losses),
        "evaluations": _thinned(judged),
    }


def _thinned(points: Sequence[tuple[float, float]]) -> list[list[float]]:
    """At most `MOST_POINTS`: the last place and the mean of each stretch."""
    if not points:
        return []
    stretch = math.ceil(len(points) / MOST_POINTS)
    found = []
    for begin in range(0, len(points), stretch):
        some = points[begin : begin + stretch]
        found.append([some[-1][0], sum(y for _, y in some) / len(some)])
    return found


def _outcome(run: str, kind: str, made: Made) -> dict[str, Any]:
    return {
        "run": run,
        "number": made.number,
        "step": made.step,
        "anomaly": made.anomaly,
        "context": context_of(kind, made.phase),
        "action": made.action,
        "mode": made.mode,
        "verdict": made.verdict,
        "confidence": made.confidence,
        "measured": made.measured,
        "expected": made.expected,
    }
