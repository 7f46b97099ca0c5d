"""The figures of a run as people read them while it goes on and when it ends."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lumina import quantities as q
from lumina.observe.by_source import source_cells
from lumina.observe.reported import part_cells
from lumina.optim.declared import chosen_optimizer
from lumina.plan.plan import Plan

PACE_WINDOW = 50
CELL_WIDTH = 24
LINE_WIDTH = 100
"""Most characters of a line; only a word, such as a path, may be longer."""


class RunFigures:
    """What is known of a run so far, as a line, a block and a summary.

    Attributes:
        plan: what was decided, once the run begins.
        first_step: completed steps when it began.
        started: when it began, by the clock.
        row: the last row of `metrics.jsonl`.
        eval: step and loss of the last evaluation.
        best: step and loss of the best one.
        memory_total: bytes of the device, where they are known.
        facts: further figures of the block that stay as they are, by name.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._pace: deque[tuple[float, int]] = deque(maxlen=PACE_WINDOW)
        self.plan: Plan | None = None
        self.first_step = 0
        self.started = clock()
        self.row: Mapping[str, Any] = {}
        self.eval: tuple[int, float] | None = None
        self.best: tuple[int, float] | None = None
        self.memory_total: int | None = None
        self.facts: dict[str, str] = {}

    def begin(self, plan: Plan, first_step: int, facts: Mapping[str, str]) -> None:
        """The run begins (or goes on) after `first_step` completed steps."""
        self.plan, self.first_step = plan, first_step
        self.facts = dict(facts)
        self.started = self._clock()
        self._pace.clear()
        self._pace.append((self.started, first_step))

    def take(self, row: Mapping[str, Any], now: float) -> None:
        """Take up one row of `metrics.jsonl`, at the time `now`."""
        self.row = row
        step = int(row["step"])
        self._pace.append((now, step))
        if (loss := q.known(row.get("eval_loss"))) is not None:
            self.note_eval(step, loss)

    def note_eval(self, step: int, loss: float) -> bool:
        """Take up an evaluation; whether its loss is the best so far."""
        self.eval = (step, loss)
        if q.known(loss) is None:
            return False
        if self.best is None or loss < self.best[1] or step == self.best[0]:
            self.best = (step, loss)
            return True
        return False

    def seconds_left(self) -> float | None:
        """At the pace of the last steps; None before there are two."""
        if self.plan is None or len(self._pace) < 2:
            return None
        (before, first), (now, last) = self._pace[0], self._pace[-1]
        if last <= first:
            return None
        return (self.plan.steps - last) * (now - before) / (last - first)

    def _memory(self, row: Mapping[str, Any]) -> str:
        used = row.get("memory_peak_bytes", row.get("memory_allocated_bytes"))
        if q.known(used) is None or self.memory_total is None:
            return q.byte_size(used)
        return f"{q.byte_size(used)} of {q.byte_size(self.memory_total)}"

    def line(self, row: Mapping[str, Any]) -> str:
        """One step in one line of at most `LINE_WIDTH` characters.

        What has no room is in metrics.jsonl and, on a terminal, in the live block.
        """
        total = f"/{self.plan.steps:,}" if self.plan else ""
        shown: list[
            tuple[float, str]
        ] = [  # (what gives way first has the greatest number, text)
            (0, f"step {row['step']:,}{total}"),
            (5, f"epoch {q.decimal(row.get('epoch'), 2)}"),
            (0, f"loss {q.decimal(row.get('loss'))}"),
            (4, f"learning rate {q.scientific(row.get('learning_rate'))}"),
            (6, f"gradient norm {q.decimal(row.get('grad_norm'), 2)}"),
            (1, f"{q.rate(row.get('tokens_per_second'))} tokens/s"),
            (7, f"MFU {q.share(row.get('mfu'))}"),
            (3, f"memory {self._memory(row)}"),
        ]
        if row.get("skipped"):
            shown.append((2, f"skipped {row['skipped']}"))
        # Figures of a registered part come first: they are why it was written.
        for first, more in (
            (2.1, part_cells(row, self.plan)),
            (3.1, source_cells(row)),
            (8, _routing(row)),
        ):
            for at, (name, value) in enumerate(more):
                shown.append((first + at / 10, f"{name} {value}"))
        if (left := self.seconds_left()) is not None:
            shown.append((1, f"{q.clock(left)} left"))
        if q.known(row.get("mfu")) is None:
            shown = [one for one in shown if one[0] != 7]
        while sum(len(text) + 2 for _, text in shown) - 2 > LINE_WIDTH:
            least = max(number for number, _ in shown)
            if least == 0:
                break
            shown = [one for one in shown if one[0] != least]
        return "  ".join(text for _, text in shown)

    def block(self, now: float, width: int) -> Group:
        """A bar, then labelled figures, in `width` characters."""
        row, plan = self.row, self.plan
        steps = plan.steps if plan else 1
        done = int(row.get("step", self.first_step))
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(no_wrap=True)
        bar.add_column(ratio=1)
        bar.add_column(no_wrap=True)
        left = q.clock(self.seconds_left())
        bar.add_row(
            f"step {done:,}/{steps:,}",
            ProgressBar(total=max(steps, 1), completed=done),
            f"{q.clock(now - self.started)} gone, {left} left",
        )
        cells = [
            Text.assemble((f"{name} ", "dim"), text) for name, text in self.cells()
        ]
        columns = max(width // CELL_WIDTH, 1)
        figures = Table.grid(padding=(0, 2))
        for _ in range(columns):
            figures.add_column(no_wrap=True)
        for start in range(0, len(cells), columns):
            figures.add_row(*cells[start : start + columns])
        return Group(bar, figures)

    def cells(self) -> list[tuple[str, str]]:
        """The figures of the block, as (name, text)."""
        row, plan = self.row, self.plan
        cells = [
            ("loss", q.decimal(row.get("loss"))),
            ("ppl", q.perplexity(row.get("loss"))),
            ("epoch", q.decimal(row.get("epoch"), 2)),
            ("lr", q.scientific(row.get("learning_rate"))),
            ("grad", q.decimal(row.get("grad_norm"), 2)),
            ("tok/s", q.rate(row.get("tokens_per_second"))),
            ("mfu", q.share(row.get("mfu"))),
            ("memory", self._memory(row)),
            ("wait", q.share(_wait_share(row))),
            ("tokens", q.count(row.get("tokens"))),
        ]
        if plan is not None:
            cells.append(("batch", _batch(plan)))
            if "beta1" in chosen_optimizer(plan.optimizer).settings.values():
                cells.append(("beta", f"{plan.beta1:g}, {plan.beta2:g}"))
            cells.append(("ranks", f"{plan.world_size} {plan.parallel}"))
        cells += self.facts.items()
        if (score := q.known(row.get("training_health_score"))) is not None:
            cells.append(("health", f"{score:.0f} of 100"))
        cells += source_cells(row) + _routing(row) + part_cells(row, plan)
        if row.get("skipped"):
            cells.append(("skipped", q.count(row["skipped"])))
        for name, seen in (("eval ppl", self.eval), ("best ppl", self.best)):
            if seen is not None:
                cells.append((name, f"{q.perplexity(seen[1])} at {seen[0]:,}"))
        return cells

    def summary_lines(self, summary: Mapping[str, Any]) -> list[str]:
        """How the run ended; `summary` as of `Console.finish`."""
        best, step = summary.get("best_eval_loss"), summary.get("best_eval_step")
        if self.best is not None and best in (None, self.best[1]):
            step, best = self.best
        at = f" at step {step:,}" if isinstance(step, int) else ""
        rows: list[tuple[str, str]] = [
            ("ended", str(summary.get("reason", "done"))),
            ("steps", q.count(summary.get("steps", self.row.get("step")))),
            ("tokens", q.count(summary.get("tokens", self.row.get("tokens")))),
            ("time", q.clock(summary.get("seconds", self._clock() - self.started))),
            ("loss", q.decimal(summary.get("final_loss", self.row.get("loss")))),
        ]
        if q.known(best) is not None:
            rows.append(
                ("best eval", f"{q.decimal(best)}, perplexity {q.perplexity(best)}{at}")
            )
        for name in ("run_dir", "checkpoint", "report"):
            if summary.get(name):
                rows.append((name.replace("_dir", ""), str(summary[name])))
        commands = summary.get("next") or []
        for command in [commands] if isinstance(commands, str) else commands:
            rows.append(("next", str(command)))
        return ["", *(f"  {name:<11}{value}" for name, value in rows)]


def _batch(plan: Plan) -> str:
    """Rows of a step, and how they divide: in a forward, forwards, processes."""
    parts = (plan.micro_batch_size, plan.grad_accum, plan.data_parallel)
    return f"{plan.global_batch_size} ({' x '.join(map(str, parts))})"


def _wait_share(row: Mapping[str, Any]) -> float | None:
    wait, step = q.known(row.get("data_wait_seconds")), q.known(row.get("step_seconds"))
    return wait / step if wait is not None and step else None


def _routing(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The routed layers at a glance, as (short name, text); empty without any.

    Balance is 1 - std/mean of the experts' load, 1 when all carry the same; of several
    layers the mean is shown, of dead experts the sum.
    """
    cells = []
    loads = [load for load in row.get("moe.load") or [] if load and sum(load) > 0]
    if loads:
        scores = [1 - statistics.pstdev(x) / statistics.fmean(x) for x in loads]
        cells.append(("balance", q.decimal(statistics.fmean(scores), 2)))
        used = sum(share > 0 for load in loads for share in load)
        cells.append(("experts used", f"{used} of {sum(map(len, loads))}"))
    for key, name in (("moe.balance_loss", "balance loss"), ("moe.z_loss", "z-loss")):
        if (value := q.known(row.get(key))) is not None:
            cells.append((name, q.decimal(value, 3)))
    dropped = row.get("moe.dropped_fraction") or []
    if any(dropped):
        cells.append(("dropped", q.share(statistics.fmean(dropped))))
    return cells
