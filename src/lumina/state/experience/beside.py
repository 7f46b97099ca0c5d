"""The latest runs like one, kept with it so that its report can be written again."""

from __future__ import annotations

import json
from collections.abc import Sequence

from lumina.durable import write_error, write_file
from lumina.errors import LuminaError
from lumina.state.experience.records import RunRecord
from lumina.state.experience.store import ExperienceStore
from lumina.state.run_directory import RunDirectory

MOST = 5


def runs_beside(store: ExperienceStore, run: RunRecord) -> list[RunRecord]:
    """The latest other runs of the same kind on the same data, the latest first.

    Raises:
        LuminaError: for a store that cannot be used.
    """
    found = store.like(run.kind, run.data, MOST + 1)
    return [one for one in found if one.id != run.id][:MOST]


def leave_earlier_runs(directory: RunDirectory, runs: Sequence[RunRecord]) -> None:
    """Write RUN/earlier_runs.json; nothing where there are none.

    Raises:
        LuminaError: E106 or E204 when the file cannot be written.
    """
    if not runs:
        return
    values = {"runs": [run.to_dict() for run in runs]}
    text = json.dumps(values, indent=1, allow_nan=False) + "\n"
    try:
        write_file(directory.earlier_runs, text.encode())
    except OSError as error:
        raise write_error(error, directory.earlier_runs) from error


def earlier_runs(directory: RunDirectory) -> list[RunRecord]:
    """What was left; every value is checked.

    Raises:
        LuminaError: E101 for a file that holds something else.
    """
    path = directory.earlier_runs
    if not path.exists():
        return []
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return [RunRecord.checked(one) for one in values["runs"]]
    except (ValueError, KeyError, TypeError) as error:
        raise LuminaError(
            "E101", f"{path} lists no runs: {error}", "remove the file"
        ) from None
