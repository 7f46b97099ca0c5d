"""Everything that the files of a run say, read once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lumina.errors import LuminaError
from lumina.observe.report.metrics import Metrics
from lumina.state.experience.beside import earlier_runs
from lumina.state.experience.records import RunRecord
from lumina.state.json_lines import iterate_json_lines, read_json_lines
from lumina.state.liveness import state_of
from lumina.state.run_directory import RunDirectory

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Record:
    """What a run left behind; what is missing is empty.

    Attributes:
        run: its directory.
        metrics: of metrics.jsonl.
        events: of events.jsonl, in order.
        plan: plan.json.
        status: status.json.
        samples: of samples.jsonl: `step`, `prompt` and `text` each.
        results: of results.json: further figures by name.
        earlier: of earlier_runs.json: the latest runs like it.
    """

    run: RunDirectory
    metrics: Metrics
    events: Sequence[Event]
    plan: Mapping[str, Any]
    status: Mapping[str, Any]
    samples: Sequence[Mapping[str, Any]]
    results: Mapping[str, Any]
    earlier: Sequence[RunRecord] = ()

    @cached_property
    def starts(self) -> list[Event]:
        """The events of the first start and of every resume."""
        return [e for e in self.events if e.get("kind") == "run_started"]

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the last start recorded of itself."""
        return data_of(self.starts[-1]) if self.starts else {}

    @cached_property
    def state(self) -> str:
        """How the run ended, or "running"; "killed" where its process is gone."""
        said = str(self.status.get("status", "unknown"))
        # A run that has ended still holds its lock while it writes this page.
        return state_of(self.run.path) if said == "running" else said

    @cached_property
    def spec(self) -> Mapping[str, Any]:
        """The shape of the network, as in the plan."""
        return self.plan.get("spec") or {}

    @cached_property
    def settings(self) -> str:
        """The text of config.yaml."""
        path = self.run.config
        if not path.exists():
            return ""
        return path.read_text(encoding="utf-8", errors="replace")


def read_record(run: RunDirectory) -> Record:
    """Read a run directory.

    Raises:
        LuminaError: E104 when there is no such folder, E101 for a broken file in it.
    """
    if not run.path.is_dir():
        raise LuminaError("E104", f"{run.path} does not exist", "check the path")
    rows = iterate_json_lines(run.metrics) if run.metrics.exists() else ()
    return Record(
        run=run,
        metrics=Metrics(rows),
        events=_lines(run.events),
        plan=_object(run.plan),
        status=run.status() or {},
        samples=_lines(run.samples),
        results=_object(run.results),
        earlier=earlier_runs(run),
    )


def data_of(event: Event) -> Mapping[str, Any]:
    """The figures and names of an event."""
    data = event.get("data")
    return data if isinstance(data, Mapping) else {}


def _lines(path: Path) -> list[dict[str, Any]]:
    return read_json_lines(path) if path.exists() else []


def _object(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LuminaError(
            "E101", f"{path} is not JSON: {error}", "restore the file, or remove it"
        ) from None
    return values if isinstance(values, dict) else {}
