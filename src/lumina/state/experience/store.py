"""Reading and writing the experience store."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from lumina.errors import LuminaError
from lumina.state.experience.database import reading, shrink, writing
from lumina.state.experience.records import (
    NESTED,
    OUTCOME,
    RUN,
    OutcomeRecord,
    RunRecord,
)

MOST_RUNS = 1000
MOST_OUTCOMES = 20_000
MOST_OF_A_RUN = 200
"""What a store keeps: of the latest runs, the latest outcomes of each."""

FILE = "experience.sqlite"


@dataclass(frozen=True)
class Experience:
    """What a store holds, every value of it checked.

    Attributes:
        runs: the latest first.
        outcomes: by run and number.
    """

    runs: list[RunRecord] = field(default_factory=list)
    outcomes: list[OutcomeRecord] = field(default_factory=list)


class ExperienceStore:
    """What earlier runs were and what came of their decisions, in one SQLite file.

    Any number of processes may write at once: each writes a run in one transaction.

    Args:
        path: the file; made by the first `add`.

    Raises:
        LuminaError: of every method: E101 for a file that is no store of this version,
            is damaged, or holds a value of the wrong type or range; E002 while another
            process holds it; E104, E106 and E204 as for other files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def all(self) -> Experience:
        """Everything; nothing where there is no file yet."""
        if not self.path.exists():
            return Experience()
        with reading(self.path, whole=True) as database:
            runs = self._runs(database, "ORDER BY time DESC, id LIMIT ?", (MOST_RUNS,))
            outcomes = [
                self._outcome(row)
                for row in database.execute(
                    f"SELECT {', '.join(OUTCOME)} FROM outcomes ORDER BY run, number "
                    "LIMIT ?",
                    (MOST_OUTCOMES,),
                )
            ]
        known = {run.id for run in runs}
        if lost := next((o.run for o in outcomes if o.run not in known), None):
            self._refuse(f"an outcome is of the run {lost}, which it does not hold")
        return Experience(runs, outcomes)

    def like(self, kind: str, data: str, most: int) -> list[RunRecord]:
        """The latest finished runs of a kind on the same data.

        Args:
            kind: kind of run.
            data: fingerprint of the data.
            most: how many.
        """
        if not self.path.exists() or not data:
            return []
        with reading(self.path) as database:
            return self._runs(
                database,
                "WHERE kind = ? AND data = ? AND status = 'finished' "
                "ORDER BY time DESC, id LIMIT ?",
                (kind, data, most),
            )

    def add(self, *runs: tuple[RunRecord, Sequence[OutcomeRecord]]) -> None:
        """Put runs with their outcomes in, in the place of what was held of them.

        Raises:
            ValueError: for a value that could not be read again; nothing is put in.
        """
        for run, outcomes in runs:
            RunRecord.checked(run.to_dict())
            for one in outcomes:
                OutcomeRecord.checked(one.to_dict())
        with writing(self.path) as database:
            for run, outcomes in runs:
                _put(database, run, outcomes[-MOST_OF_A_RUN:])
            _bound(database)

    def forget_runs(self, ids: Iterable[str]) -> int:
        """Remove runs and their outcomes; returns how many runs there were."""
        with writing(self.path) as database:
            count = 0
            for one in ids:
                found = database.execute("DELETE FROM runs WHERE id = ?", (one,))
                count += found.rowcount
                database.execute("DELETE FROM outcomes WHERE run = ?", (one,))
        shrink(self.path)
        return count

    def forget_anomaly(self, anomaly: str) -> int:
        """Remove the outcomes of an anomaly; returns how many there were."""
        with writing(self.path) as database:
            found = database.execute(
                "DELETE FROM outcomes WHERE anomaly = ?", (anomaly,)
            )
            count = found.rowcount
        shrink(self.path)
        return count

    def _runs(
        self, database: sqlite3.Connection, rest: str, values: tuple[Any, ...]
    ) -> list[RunRecord]:
        query = f"SELECT {', '.join(RUN)} FROM runs {rest}"
        return [self._run(row) for row in database.execute(query, values)]

    def _run(self, row: Sequence[Any]) -> RunRecord:
        values = dict(zip(RUN, row, strict=True))
        try:
            for name in NESTED:
                values[name] = _from_json(values[name])
            return RunRecord.checked(values)
        except ValueError as error:
            self._refuse(f"a run in it is not valid: {error}")

    def _outcome(self, row: Sequence[Any]) -> OutcomeRecord:
        try:
            return OutcomeRecord.checked(dict(zip(OUTCOME, row, strict=True)))
        except ValueError as error:
            self._refuse(f"an outcome in it is not valid: {error}")

    def _refuse(self, why: str) -> NoReturn:
        raise LuminaError(
            "E101",
            f"the experience store {self.path} cannot be trusted: {why}",
            "name another file with --experience, or move this one away",
        )


def _put(
    database: sqlite3.Connection, run: RunRecord, outcomes: Iterable[OutcomeRecord]
) -> None:
    values = run.to_dict()
    for name in NESTED:
        values[name] = json.dumps(values[name], allow_nan=False, separators=(",", ":"))
    _insert(database, "runs", values)
    database.execute("DELETE FROM outcomes WHERE run = ?", (run.id,))
    for one in outcomes:
        _insert(database, "outcomes", one.to_dict())


def _insert(database: sqlite3.Connection, table: str, values: dict[str, Any]) -> None:
    places = ", ".join("?" * len(values))
    names = ", ".join(values)
    database.execute(
        f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({places})",
        tuple(values.values()),
    )


def _bound(database: sqlite3.Connection) -> None:
    """Remove the oldest runs past what is kept."""
    held = database.execute(
        "SELECT runs.id, (SELECT count(*) FROM outcomes WHERE run = runs.id) "
        "FROM runs ORDER BY time DESC, id"
    ).fetchall()
    outcomes = 0
    for place, (one, count) in enumerate(held):
        outcomes += count
        if place >= MOST_RUNS or outcomes > MOST_OUTCOMES:
            database.execute("DELETE FROM runs WHERE id = ?", (one,))
            database.execute("DELETE FROM outcomes WHERE run = ?", (one,))


def _from_json(value: object) -> Any:
    """What a cell holds.

    Raises:
        ValueError: for what is no JSON.
    """
    if not isinstance(value, str):
        raise ValueError(f"a {type(value).__name__} stands where JSON should")
    try:
        return json.loads(value, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None


def _no_constant(token: str) -> NoReturn:
    raise ValueError(f"{token} is not strict JSON")
