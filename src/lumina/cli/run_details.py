"""All that the files of a run say, for `lumina runs show` and `compare`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from lumina.cli.run_files import described
from lumina.config import Config
from lumina.config.sections import LEAVES
from lumina.errors import LuminaError
from lumina.state.json_lines import read_json_lines

_SHOWN_WARNINGS = 5


def detailed(path: Path) -> dict[str, Any]:
    """All that is known of a run, as plain JSON values.

    Raises:
        LuminaError: E101 for settings, metrics or events that are damaged.
    """
    config = _config(path)
    rows = _lines(path / "metrics.jsonl")
    events = _lines(path / "events.jsonl")
    judged = [row for row in rows if row.get("eval_loss") is not None]
    best = min(judged, key=lambda row: row["eval_loss"], default={})
    return described(path) | {
        "asked": _asked(config) if config else {},
        "settings": config.to_dict() if config else {},
        "plan": _plan(path),
        "tokens": rows[-1].get("tokens") if rows else None,
        "first_loss": next(
            (r["loss"] for r in rows if r.get("loss") is not None), None
        ),
        "best_eval": best.get("eval_loss"),
        "best_step": best.get("step"),
        "tokens_per_second": _middle(rows, "tokens_per_second"),
        "seconds": _seconds(rows),
        "checkpoints": sorted(p.name for p in (path / "checkpoints").glob("step-*")),
        "events": dict(Counter(str(event.get("kind")) for event in events)),
        "warnings": [
            {key: event.get(key) for key in ("step", "code", "message")}
            for event in events
            if event.get("severity") in ("warning", "error")
        ][-_SHOWN_WARNINGS:],
    }


def losses(path: Path) -> dict[int, float]:
    """Step -> training loss, for the steps that had one."""
    rows = _lines(path / "metrics.jsonl")
    return {row["step"]: row["loss"] for row in rows if row.get("loss") is not None}


def _config(path: Path) -> Config | None:
    file = path / "config.yaml"
    return Config.load(file) if file.is_file() else None


def _asked(config: Config) -> dict[str, Any]:
    """The options that were chosen for the run."""
    return {leaf: config.get(leaf) for leaf in LEAVES if config.is_chosen(leaf)}


def _lines(path: Path) -> list[dict[str, Any]]:
    return read_json_lines(path) if path.is_file() else []


def _plan(path: Path) -> dict[str, Any]:
    names = ("parameters", "active_parameters", "steps", "global_batch_size",
             "compute_dtype", "device", "world_size")  # fmt: skip
    file = path / "plan.json"
    if not file.is_file():
        return {}
    try:
        plan = json.loads(file.read_text(encoding="utf-8"))
        return {name: plan.get(name) for name in names}
    except (ValueError, AttributeError) as error:
        raise LuminaError(
            "E101", f"{file} cannot be read: {error}", "a resume writes it again"
        ) from error


def _middle(rows: list[dict[str, Any]], name: str) -> float | None:
    """The median over the steps, which the slow first ones do not change."""
    values = sorted(row[name] for row in rows if row.get(name) is not None)
    return values[len(values) // 2] if values else None


def _seconds(rows: list[dict[str, Any]]) -> float | None:
    """Seconds of all steps together."""
    values = [row["step_seconds"] for row in rows if row.get("step_seconds")]
    return sum(values) if values else None
