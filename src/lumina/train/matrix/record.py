"""Rows of the matrix: one JSON line for each cell, which is then never run again."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lumina.plan.environment import Environment
from lumina.state.json_lines import read_json_lines
from lumina.train.matrix.cell import Cell
from lumina.train.matrix.judge import Verdict
from lumina.train.matrix.setting import STEPS

VERSION = 1


def key_of(cell: Cell, machine: Mapping[str, Any]) -> str:
    """What a finished row is found by: the cell, the machine, the versions."""
    asked: dict[str, Any] = {
        "name": cell.name,
        "run": cell.leaves,
        "reference": cell.reference,
    }
    asked |= {"features": cell.features, "machine": machine}
    if cell.reference_ranks > 1:
        asked["reference_ranks"] = cell.reference_ranks
    text = json.dumps(asked, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def described(machine: Environment, versions: Mapping[str, str]) -> dict[str, Any]:
    """The hardware and the versions of a row."""
    return {
        "device": machine.device,
        "name": machine.device_name,
        "cores": machine.cores,
        "memory_bytes": machine.memory_bytes,
        "capability": list(machine.capability or ()),
        "versions": {name: text for name, text in versions.items() if text},
    }


def row_of(
    cell: Cell, verdict: Verdict, machine: Mapping[str, Any], seconds: float
) -> dict[str, Any]:
    """The line of a finished cell, as plain JSON values."""
    allowed = cell.tolerance
    figures = {
        name: value if value is None or math.isfinite(value) else str(value)
        for name, value in (verdict.figures or {}).items()
    }
    row = {
        "version": VERSION,
        "key": key_of(cell, machine),
        "cell": cell.label,
        "named": cell.name,
        "features": list(cell.features),
        "options": cell.options | cell.switched,
        "settles": cell.settles,
        "status": verdict.status,
        "why": verdict.why,
        "code": verdict.code,
        "steps": STEPS,
        "ranks": cell.ranks,
        "figures": figures,
        "tolerance": {
            "first_loss": allowed.first_loss,
            "gradients": allowed.gradients,
            "learned": allowed.learned,
        },
        "live": dict(verdict.live or {}),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": dict(machine),
        "seconds": round(seconds, 1),
    }
    plain: dict[str, Any] = json.loads(json.dumps(row))
    return plain


def read_rows(files: Iterable[Path]) -> list[dict[str, Any]]:
    """The rows of several files; where a key is there twice, the last one."""
    found: dict[str, dict[str, Any]] = {}
    for file in files:
        if file.exists():
            for row in read_json_lines(file):
                found[row["key"]] = row
    return list(found.values())
