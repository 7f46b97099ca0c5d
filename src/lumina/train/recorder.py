"""From a step's numbers to rows, events and lines: all bookkeeping of a run."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lumina.assemble.counted import counted_metrics, counted_shapes
from lumina.model.kinds.table import kinds_of, loss_terms
from lumina.observe.console import Console
from lumina.observe.run_log import RunLog, told
from lumina.observe.trackers import Trackers
from lumina.observe.utilisation import Utilisation
from lumina.plan.plan import Plan
from lumina.state.events import EventLog, Severity
from lumina.state.metrics import MetricsLog
from lumina.state.rollback import undone_folder
from lumina.train.compiled_graphs import CompiledGraphs
from lumina.train.counts import divide_counts
from lumina.train.memory_figures import MemoryFigures
from lumina.train.pace import Pace
from lumina.train.step import SCALARS, Measured


class Recorder:
    """Writes metrics.jsonl and events.jsonl and feeds the console; rank 0 only writes.

    Args:
        folder: the run directory.
        plan: gives the kind of arithmetic, for the peak rate.
        console: what a person sees.
        main: whether this process writes.
        device_name: for the peak rate; MFU is null where it is not known.
        memory_bytes: what this process may use of its device; None: not known.
        log: the log file, which the recorder closes; None: there is none.
        log_level: the least severe events that the console shows.
        rotate_bytes: size after which metrics.jsonl starts over; 0: it only grows.
        on_row: called with every finished row.
        on_event: called with every event that is recorded, from any thread.

    Attributes:
        trackers: services that show the run; None: there are none.
    """

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        console: Console,
        *,
        main: bool,
        device_name: str,
        memory_bytes: int | None = None,
        log: RunLog | None = None,
        log_level: str = "INFO",
        rotate_bytes: int = 0,
        on_row: Callable[[dict[str, Any]], None] | None = None,
        on_event: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.console = console
        self.main = main
        self.on_row = on_row
        self.on_event = on_event
        self.trackers: Trackers | None = None
        self.log = log
        self.log_level = log_level
        rows = folder / "metrics.jsonl"
        self.metrics = MetricsLog(rows, rotate_bytes) if main else None
        self.events = EventLog(folder / "events.jsonl") if main else None
        self.skipped = 0
        self.consecutive_skips = 0
        self.unlabelled = 0  # steps without a label
        self.clipped = 0  # steps whose gradients were clipped
        self.last_row: dict[str, Any] = {}
        self.measured = Measured()  # of the newest row
        self.last_loss = math.nan  # of the last step that had a label
        kind = "tf32" if plan.tf32 else plan.compute_dtype
        self._graphs = CompiledGraphs()
        self._pace = Pace(device_name, kind)
        self._memory = MemoryFigures(plan.device, memory_bytes)
        self._utilisation: Utilisation | None = None
        if main and plan.measures.get("utilisation"):
            self._utilisation = Utilisation(folder, plan.device)
            if self._utilisation.missing:
                self.event(
                    "utilisation_unknown", "info", None, self._utilisation.missing
                )

    def row(
        self, plan: Plan, known: dict[str, Any], values: list[float]
    ) -> dict[str, Any]:
        """One step's row of metrics.jsonl, from what the device reported.

        Args:
            plan: what the step's Program realised.
            known: step, tokens, epoch, learning_rate, data_wait_seconds,
                step_seconds, loss_tokens, the labels of all ranks (a step without
                any has no loss), step_tokens, which is not written, held, bytes by
                what holds them, and facts, further keys of the row.
            values: the vector of `train_step`.
        """
        seconds = known["step_seconds"]
        scalars = dict(zip(SCALARS, values, strict=False))
        skipped = int(scalars["skipped"])
        self.skipped += skipped
        labelled = known["loss_tokens"] > 0
        if labelled or skipped:
            self.consecutive_skips = self.consecutive_skips + 1 if skipped else 0
        tokens = known["step_tokens"]
        clip = scalars["clip"] if labelled else None
        self.clipped += bool(clip is not None and 0 < clip < 1)
        loss = scalars["loss"] if labelled else None
        if loss is not None:
            self.last_loss = loss
        row = {
            "step": known["step"],
            "tokens": known["tokens"],
            "epoch": known["epoch"],
            "loss_tokens": known["loss_tokens"],
            "loss": loss,
            "perplexity": _perplexity(loss),
            "learning_rate": known["learning_rate"],
            "grad_norm": scalars["grad_norm"] if labelled else None,
            "effective_learning_rate": None
            if clip is None
            else known["learning_rate"] * clip,
            "clipped_gradients": self.clipped,
            "skipped": self.skipped,
            "data_wait_seconds": known["data_wait_seconds"],
            "time": time.time(),
        }
        row |= self._pace.row(plan, row["step"], seconds, tokens, row["epoch"])
        row |= self._memory.row(row["step"], known.get("held"))
        every = plan.measures.get("utilisation")
        if self._utilisation is not None and every and row["step"] % every == 0:
            row |= self._utilisation.row()
        row |= self._of_kinds(plan, row["step"], values)
        row |= known.get("facts", {})
        row |= self._agreed(scalars)
        graphs = self._graphs.since_last()
        self.measured = Measured(row["memory_utilization"] or 0.0, seconds, graphs)
        if skipped:
            self._tell_skipped(plan, known["step"], loss)
        if not labelled:
            self._tell_unlabelled(known["step"])
        return row

    @staticmethod
    def _agreed(scalars: dict[str, float]) -> dict[str, float | None]:
        """The means over all processes of what each measured of an earlier step."""
        return {
            "agreed_memory_share": scalars["memory_share"] or None,
            "agreed_step_seconds": scalars["seconds"] or None,
            "agreed_compiled_graphs": scalars["compiled_graphs"],
        }

    def _tell_skipped(self, plan: Plan, step: int, loss: float | None) -> None:
        """Tell of a step whose gradients overflowed, and what that changes."""
        finite = loss is not None and math.isfinite(loss)
        found = "the gradients" if finite else "the loss and the gradients"
        change = "the weights did not change"
        if plan.compute_dtype == "float16":
            change += ", and the loss scale was halved"
        self.event(
            "step_skipped",
            "warning",
            "E302",
            f"{found} were not finite; {change}",
            step=step,
            loss=loss if finite else None,
        )

    def _tell_unlabelled(self, step: int) -> None:
        """Count a step without labels; tell of the 1st, 2nd, 4th, 8th and so on."""
        self.unlabelled += 1
        if self.unlabelled & (self.unlabelled - 1):
            return
        count = self.unlabelled
        self.event(
            "step_without_labels",
            "warning",
            None,
            "no row of this step has a label: it has no loss, and the weights did not "
            f"change ({count:,} such {'step' if count == 1 else 'steps'} so far)",
            step=step,
            count=count,
        )

    def write(self, row: dict[str, Any]) -> None:
        """Append a finished row and show it."""
        self.last_row = row
        if self.metrics is not None:
            self.metrics.append(row)
            self.console.step(row)
            self._log_row(row)
        self._pass_on(row)

    def _log_row(self, row: dict[str, Any]) -> None:
        """Write a row into the log file; say once when that fails."""
        log = self.log
        if log is None:
            return
        log.row(row)
        if log.problem:
            log.close()
            self.log = None
            self.event(
                "log_failed",
                "warning",
                None,
                f"{log.path} gets no more lines: {log.problem}; the run goes on, and "
                "its own files have everything",
            )

    def amend(self, step: int, found: dict[str, Any]) -> None:
        """Add to the row of the last step what was learned of it later."""
        if self.last_row.get("step") != step:  # the file or the row was removed
            return
        self.last_row = self.last_row | found
        if self.metrics is not None:
            self.metrics.amend_last(self.last_row)
        self._pass_on(self.last_row)

    def take_back(self, step: int, skipped: int) -> Path | None:
        """Release the rows past a step that the run was taken back to.

        Args:
            step: completed steps now.
            skipped: steps that were skipped until then.

        Returns:
            The folder below the run that has them; None where there were none, and on
            other ranks than the first.
        """
        self.skipped, self.consecutive_skips = skipped, 0
        if self.metrics is None:
            return None
        discarded = self.metrics.truncate_after(step)
        if discarded is None:
            return None
        kept = undone_folder(self.metrics.path.parent)
        os.rename(discarded, kept / self.metrics.path.name)
        return kept

    def _pass_on(self, row: dict[str, Any]) -> None:
        """Give a row to whatever else takes rows."""
        if self.trackers is not None:
            self.trackers.row(row)
        if self.on_row is not None:
            self.on_row(row)

    def event(
        self,
        kind: str,
        severity: Severity,
        code: str | None,
        message: str,
        step: int | None = None,
        **data: Any,
    ) -> None:
        """Append an event and show it."""
        if self.events is not None:
            event = self.events.emit(kind, severity, code, message, step, **data)
            if told(severity, self.log_level):
                self.console.event(event)
            self._track(event)

    def note(self, kind: str, message: str, step: int, **data: Any) -> None:
        """Append an event that is for the record, and not shown."""
        if self.events is not None:
            self._track(self.events.emit(kind, "info", None, message, step, **data))

    def _track(self, event: dict[str, Any]) -> None:
        if self.log is not None:
            self.log.event(event)
        if self.trackers is not None:
            self.trackers.event(event)
        if self.on_event is not None:
            self.on_event(event)

    def close(self, status: str) -> None:
        """Give the files back, and end the sessions of the trackers.

        Args:
            status: "finished", "interrupted" or "failed".
        """
        if self.trackers is not None:
            self.trackers.close(status)
        if self.log is not None:
            self.log.close()
        if self.metrics is not None and self.events is not None:
            self.metrics.close()
            self.events.close()

    def _of_kinds(self, plan: Plan, step: int, values: list[float]) -> dict[str, Any]:
        """The further losses, and what the kinds of the model make of their counts."""
        terms = loss_terms(plan.spec)
        rest = values[len(SCALARS) :]
        row: dict[str, Any] = {
            term.key: value for term, value in zip(terms, rest, strict=False)
        }
        flat = torch.tensor(rest[len(terms) :])
        counted = dict(divide_counts(flat, counted_shapes(plan)))
        for kind in kinds_of(plan.spec):
            for name, text, data in kind.events(plan, step, counted):
                self.note(name, text, step, **data)
        return row | counted_metrics(plan, counted)


def _perplexity(loss: float | None) -> float | None:
    if loss is None:
        return None
    return math.exp(loss) if loss < 700 else math.inf
