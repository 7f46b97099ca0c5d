"""The plans that a run had before the present one.

A resume may change the plan, and plan.json then holds the new one. A run whose
orchestrator decides keeps those before it, so that its decisions can be made again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lumina.durable import write_file
from lumina.errors import LuminaError
from lumina.json_objects import read_object
from lumina.state.run_directory import RunDirectory

FOLDER = "earlier_plans"


def keep_plan(run: RunDirectory, step: int, after: str) -> None:
    """Keep plan.json, which another plan is about to replace, where they differ.

    Args:
        run: the directory.
        step: completed steps where the other one begins to hold.
        after: the text of the other one.
    """
    if not run.plan.is_file():
        return
    before = run.plan.read_text(encoding="utf-8")
    if before == after:
        return
    folder = run.path / FOLDER
    folder.mkdir(exist_ok=True)
    number = 1 + max((int(path.stem) for path in _files(folder)), default=0)
    values = {"until": step, "plan": json.loads(before)}
    content = json.dumps(values, separators=(",", ":"), allow_nan=False)
    write_file(folder / f"{number}.json", content.encode())


def plans_of(run: RunDirectory) -> list[tuple[int | None, dict[str, Any]]]:
    """The plans by which the steps were taken that now stand in the record.

    Args:
        run: the directory.

    Returns:
        (last step, plan) each, in order; the last one holds to the end.

    Raises:
        LuminaError: E104 for a missing file, E101 for a broken one; as
            `lumina.json_objects.read_object`.
    """
    found: list[tuple[int | None, dict[str, Any]]] = []
    for path in sorted(_files(run.path / FOLDER), key=lambda one: int(one.stem)):
        values = _read(path)
        until, plan = values.get("until"), values.get("plan")
        if type(until) is not int or not isinstance(plan, dict):
            raise LuminaError("E101", f"{path} is no plan of a run", "remove it")
        # Steps past a resume were taken again: by this plan, or by a later one.
        while found and (found[-1][0] or 0) > until:
            plan = found.pop()[1]
        if not found or found[-1][0] != until:
            found.append((until, plan))
    return [*found, (None, _read(run.plan))]


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.json") if path.stem.isdecimal()]


def _read(path: Path) -> dict[str, Any]:
    return read_object(path, "restore the file")
