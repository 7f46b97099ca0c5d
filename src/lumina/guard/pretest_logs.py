"""The history of levers in JSON: ``LUMINA_CACHE/pretest_logs``.

`pretest_history.json` has every entry, and one file for each size and date those of it.
"""

from __future__ import annotations

import fcntl
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lumina.cache_root import cache_root
from lumina.durable import write_error, write_file
from lumina.guard.judge import Verdict
from lumina.model.kinds.table import kind_names
from lumina.plan.plan import Plan

FOLDER = "pretest_logs"
HISTORY = "pretest_history.json"

MOST = 10_000
"""Entries that are kept."""


def size_name(parameters: int) -> str:
    """A model's size as people say it: 1.5B, 124M, 85K."""
    for unit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if parameters >= unit:
            count = parameters / unit
            digits = f"{count:.1f}".removesuffix(".0") if count < 10 else f"{count:.0f}"
            return f"{digits}{letter}"
    return str(parameters)


def architecture(plan: Plan) -> str:
    """The kind of model, in a word."""
    return "+".join(kind_names(plan.spec)) or "dense"


def log(
    plan: Plan, verdict: Verdict, identity: dict[str, Any], *, cached: bool, why: str
) -> dict[str, Any]:
    """Enter a verdict in the history.

    Args:
        plan: of the run.
        verdict: about a lever.
        identity: what it is valid for.
        cached: whether it rests on an earlier measurement.
        why: it was asked for.

    Returns:
        The entry.

    Raises:
        LuminaError: where it cannot be written.
    """
    now = time.time()
    entry = {
        "time": now,
        "date": time.strftime("%Y-%m-%d", time.localtime(now)),
        "model_size": size_name(plan.parameters),
        "architecture": architecture(plan),
        "status": "PASS" if verdict.trusted else "FAIL",
        "cached": cached,
        "why": why,
        "text": verdict.text,
        "identity": identity,
        **asdict(verdict),
    }
    folder = cache_root() / FOLDER
    of_day = f"pretest_{entry['model_size']}_{entry['date']}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for name in (HISTORY, of_day):
                entries = [*_read(folder / name), entry][-MOST:]
                text = json.dumps(entries, indent=1) + "\n"
                write_file(folder / name, text.encode())
    except OSError as error:
        raise write_error(error, folder / HISTORY) from error
    return json.loads(json.dumps(entry))  # type: ignore[no-any-return]


def entries(model_size: str | None = None) -> list[dict[str, Any]]:
    """The history, the newest last.

    Args:
        model_size: of models of this size alone, such as "124M".
    """
    found = _read(cache_root() / FOLDER / HISTORY)
    return [one for one in found if model_size in (None, one.get("model_size"))]


def _read(file: Path) -> list[dict[str, Any]]:
    """The entries of a file; one that is damaged is set aside and begun anew."""
    try:
        values = json.loads(file.read_bytes())
        if isinstance(values, list):
            return [one for one in values if isinstance(one, dict)]
    except FileNotFoundError:
        return []
    except ValueError:
        pass
    file.replace(file.with_suffix(".damaged"))
    return []
