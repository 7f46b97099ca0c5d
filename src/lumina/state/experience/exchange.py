"""An experience store as a JSON file, and such a file into a store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lumina.errors import LuminaError
from lumina.quantities import byte_size
from lumina.state.experience.database import MOST_BYTES
from lumina.state.experience.records import OutcomeRecord, RunRecord
from lumina.state.experience.store import (
    MOST_OUTCOMES,
    MOST_RUNS,
    Experience,
    ExperienceStore,
)

FORMAT, VERSION = "lumina-experience", 1


def exported(experience: Experience) -> str:
    """All of it as JSON."""
    values = {
        "format": FORMAT,
        "version": VERSION,
        "runs": [run.to_dict() for run in experience.runs],
        "outcomes": [outcome.to_dict() for outcome in experience.outcomes],
    }
    return json.dumps(values, indent=1, allow_nan=False) + "\n"


def read_export(path: Path) -> Experience:
    """What such a file holds; every value is checked as one of a store is.

    Raises:
        LuminaError: E104 or E106 for a file that cannot be read, E101 for one that is
            no export of this version or holds a wrong value.
    """
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise ValueError(f"it has {byte_size(size)}")
        values = json.loads(path.read_bytes(), parse_constant=_no_constant)
        return _checked(values)
    except OSError as error:
        code = "E106" if isinstance(error, PermissionError) else "E104"
        raise LuminaError(code, f"{path}: {error.strerror}", "check the path") from None
    except (ValueError, RecursionError) as error:
        raise LuminaError(
            "E101",
            f"{path} is no export of an experience store: {error}",
            "make one with `lumina experience export`",
        ) from None


def take_in(store: ExperienceStore, experience: Experience) -> int:
    """Put all runs of an export into a store, or none; returns how many."""
    own: dict[str, list[OutcomeRecord]] = {run.id: [] for run in experience.runs}
    for outcome in experience.outcomes:
        own[outcome.run].append(outcome)
    store.add(*((run, own[run.id]) for run in experience.runs))
    return len(experience.runs)


def _checked(values: Any) -> Experience:
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT}")
    if values.get("version") != VERSION:
        raise ValueError(f"its version is not {VERSION}")
    held: dict[str, list[Any]] = {}
    for name, most in (("runs", MOST_RUNS), ("outcomes", MOST_OUTCOMES)):
        rows = values.get(name)
        if not isinstance(rows, list) or len(rows) > most:
            raise ValueError(f"its {name} are no list of at most {most:,}")
        held[name] = rows
    runs = [RunRecord.checked(one) for one in held["runs"]]
    outcomes = [OutcomeRecord.checked(one) for one in held["outcomes"]]
    known = {run.id for run in runs}
    if lost := next((o.run for o in outcomes if o.run not in known), None):
        raise ValueError(f"an outcome is of the run {lost}, which it does not hold")
    return Experience(runs, outcomes)


def _no_constant(token: str) -> Any:
    raise ValueError(f"{token} is not strict JSON")
