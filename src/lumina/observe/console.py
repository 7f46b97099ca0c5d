"""What a person sees while a run goes on: a live block, or plain lines.

The console is a bystander. It never stops the run: a closed pipe or a terminal that
cannot show a character silences or simplifies it, and nothing more.
"""

from __future__ import annotations

import contextlib
import io
import os
import statistics
import sys
import textwrap
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import IO, Any

import rich.console
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lumina import quantities as q
from lumina.observe.banner import banner_lines
from lumina.observe.by_source import source_cells
from lumina.observe.reported import part_cells
from lumina.optim.declared import chosen_optimizer
from lumina.plan.plan import Plan

REFRESH_SECONDS = 0.2
PACE_WINDOW = 50
CELL_WIDTH = 24
LINE_WIDTH = 100
"""Most characters of a line; only a word, such as a path, may be longer."""

_BEARS_LOSS = "⟦[^⟧]*⟧"
"""What bears loss in the example of the data."""

SEVERITY_STYLE = {
    "debug": "dim",
    "info": "cyan",
    "warning": "yellow",
    "error": "bold red",
    "critical": "bold white on red",
}


class Terminal(rich.console.Console):
    """A rich console that reports a closed pipe instead of ending the program."""

    def on_broken_pipe(self) -> None:
        """Called by rich while it handles the error."""
        raise BrokenPipeError


class Console:
    """Prints a run's banner, progress, evaluations, events and end.

    Args:
        rank: only rank 0 prints.
        log_every: steps between plain lines (the live block shows every step).
        stream: where to print; default: standard output.
        live: force the live block on or off; default: on when `stream` is a terminal
            that can move its cursor and show Unicode.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        *,
        rank: int = 0,
        log_every: int = 10,
        stream: IO[str] | None = None,
        live: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        given = sys.stdout if stream is None else stream
        # A Python program may have no standard output at all: then nothing is shown.
        self._stream = io.StringIO() if given is None else given
        self._silent = rank != 0 or given is None
        self._log_every = max(log_every, 1)
        self._clock = clock
        self._terminal = Terminal(file=self._stream, highlight=False, markup=False)
        self._wants_live = self._can_be_live() if live is None else live
        if live:
            self._terminal = Terminal(
                file=self._stream, force_terminal=True, highlight=False, markup=False
            )
        self._live: Live | None = None
        self._plan: Plan | None = None
        self._first_step = 0
        self._started = clock()
        self._pace: deque[tuple[float, int]] = deque(maxlen=PACE_WINDOW)
        self._row: Mapping[str, Any] = {}
        self._drawn = float("-inf")
        self._printed_step = -1
        self._eval: tuple[int, float] | None = None
        self._best: tuple[int, float] | None = None
        self._memory_total: int | None = None
        self._facts: dict[str, str] = {}

    def _can_be_live(self) -> bool:
        encoding = (getattr(self._stream, "encoding", "") or "").lower()
        return (
            self._terminal.is_terminal
            and not self._terminal.is_dumb_terminal
            and encoding.startswith("utf")
        )

    def banner(
        self,
        plan: Plan,
        environment: Any,
        stats: Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
        title: str = "Lumina",
    ) -> None:
        """What is active and why, on one screen; see `banner_lines`."""
        self._memory_total = getattr(environment, "memory_bytes", None)
        if self._silent:
            return
        width = max(min(self._terminal.width, LINE_WIDTH), 60)
        lines = banner_lines(
            plan, environment, stats, provenance, title=title, width=width
        )
        self._print("\n".join([*lines, ""]))

    def start(
        self, plan: Plan, first_step: int, facts: Mapping[str, str] | None = None
    ) -> None:
        """The run begins (or goes on) after `first_step` completed steps.

        Args:
            plan: what was decided.
            first_step: completed steps.
            facts: further figures of the live block that stay as they are, by name.
        """
        self._plan, self._first_step = plan, first_step
        self._facts = dict(facts or {})
        self._log_every = max(plan.log_every, 1)
        self._started = self._clock()
        self._pace.clear()
        self._pace.append((self._started, first_step))
        if self._wants_live and not self._silent and self._live is None:
            self._guarded(self._open_live)

    def step(self, row: Mapping[str, Any]) -> None:
        """One row of `metrics.jsonl`, as soon as it is known."""
        if self._silent:
            return
        self._row = row
        step = int(row["step"])
        now = self._clock()
        self._pace.append((now, step))
        if (loss := q.known(row.get("eval_loss"))) is not None:
            self._note_eval(step, loss)
        if self._live is not None:
            if now - self._drawn >= REFRESH_SECONDS:
                self._draw(now)
        elif step % self._log_every == 0 or step == self._first_step + 1:
            self._printed_step = step
            self._print(self._line(row))

    def eval(
        self, step: int, loss: float, shares: Mapping[str, float] | None = None
    ) -> None:
        """An evaluation ended with this loss (nats for a token), and these shares."""
        best = self._note_eval(step, loss)
        mark = "  best so far" if best else ""
        text = (
            f"eval {step:,}  loss {q.decimal(loss)}  "
            f"perplexity {q.perplexity(loss)}{mark}"
        )
        for name, share in (shares or {}).items():
            text += f"  {name.replace('_at_', '@')} {share:.1%}"
        self._print(text, style="green" if best else "")

    def event(self, event: Mapping[str, Any]) -> None:
        """Something happened that `events.jsonl` also holds."""
        severity = str(event.get("severity", "info")).lower()
        step = event.get("step")
        code = event.get("code")
        parts = [
            severity,
            f"at step {step:,}" if isinstance(step, int) else "",
            f"{code}" if code else "",
        ]
        head = " ".join(filter(None, parts))
        message = event.get("message") or event.get("kind", "")
        self._print(
            _wrapped(f"{head}: {message}"), style=SEVERITY_STYLE.get(severity, "")
        )

    def message(self, text: str) -> None:
        """A plain remark."""
        self._print(_wrapped(text))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """The run is over: how it ended, where things are, what to type next.

        Args:
            summary: any of `reason`, `steps`, `tokens`, `seconds`, `final_loss`,
                `best_eval_loss`, `best_eval_step`, `run_dir`, `checkpoint`,
                `report`, `next` (a command or a list of them).
        """
        unsaid = self._row and self._row["step"] != self._printed_step
        if unsaid and self._live is None:
            self._print(self._line(self._row))
        self.close()
        self._print("\n".join(self._summary_lines(summary)))

    def close(self) -> None:
        """Leaves the terminal as it was; safe to call at any time, more than once."""
        live, self._live = self._live, None
        if live is not None:
            self._guarded(lambda: live.update(self._block(self._clock())))
            self._guarded(live.stop)

    # -- what is shown -------------------------------------------------------

    def _note_eval(self, step: int, loss: float) -> bool:
        self._eval = (step, loss)
        if q.known(loss) is None:
            return False
        if self._best is None or loss < self._best[1] or step == self._best[0]:
            self._best = (step, loss)
            return True
        return False

    def _seconds_left(self) -> float | None:
        if self._plan is None or len(self._pace) < 2:
            return None
        (before, first), (now, last) = self._pace[0], self._pace[-1]
        if last <= first:
            return None
        return (self._plan.steps - last) * (now - before) / (last - first)

    def _memory(self, row: Mapping[str, Any]) -> str:
        used = row.get("memory_peak_bytes", row.get("memory_allocated_bytes"))
        if q.known(used) is None or self._memory_total is None:
            return q.byte_size(used)
        return f"{q.byte_size(used)} of {q.byte_size(self._memory_total)}"

    def _line(self, row: Mapping[str, Any]) -> str:
        """One step in one line of at most `LINE_WIDTH` characters.

        What has no room is in metrics.jsonl and, on a terminal, in the live block.
        """
        total = f"/{self._plan.steps:,}" if self._plan else ""
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
            (2.1, part_cells(row, self._plan)),
            (3.1, source_cells(row)),
            (8, _routing(row)),
        ):
            for at, (name, value) in enumerate(more):
                shown.append((first + at / 10, f"{name} {value}"))
        if (left := self._seconds_left()) is not None:
            shown.append((1, f"{q.clock(left)} left"))
        if q.known(row.get("mfu")) is None:
            shown = [one for one in shown if one[0] != 7]
        while sum(len(text) + 2 for _, text in shown) - 2 > LINE_WIDTH:
            least = max(number for number, _ in shown)
            if least == 0:
                break
            shown = [one for one in shown if one[0] != least]
        return "  ".join(text for _, text in shown)

    def _block(self, now: float) -> Group:
        """The live block: a bar, then labelled figures."""
        row, plan = self._row, self._plan
        steps = plan.steps if plan else 1
        done = int(row.get("step", self._first_step))
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(no_wrap=True)
        bar.add_column(ratio=1)
        bar.add_column(no_wrap=True)
        left = q.clock(self._seconds_left())
        bar.add_row(
            f"step {done:,}/{steps:,}",
            ProgressBar(total=max(steps, 1), completed=done),
            f"{q.clock(now - self._started)} gone, {left} left",
        )
        cells = [
            Text.assemble((f"{name} ", "dim"), text) for name, text in self._cells()
        ]
        columns = max(self._terminal.width // CELL_WIDTH, 1)
        figures = Table.grid(padding=(0, 2))
        for _ in range(columns):
            figures.add_column(no_wrap=True)
        for start in range(0, len(cells), columns):
            figures.add_row(*cells[start : start + columns])
        return Group(bar, figures)

    def _cells(self) -> list[tuple[str, str]]:
        row, plan = self._row, self._plan
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
        cells += self._facts.items()
        if (score := q.known(row.get("training_health_score"))) is not None:
            cells.append(("health", f"{score:.0f} of 100"))
        cells += source_cells(row) + _routing(row) + part_cells(row, plan)
        if row.get("skipped"):
            cells.append(("skipped", q.count(row["skipped"])))
        for name, seen in (("eval ppl", self._eval), ("best ppl", self._best)):
            if seen is not None:
                cells.append((name, f"{q.perplexity(seen[1])} at {seen[0]:,}"))
        return cells

    def _summary_lines(self, summary: Mapping[str, Any]) -> list[str]:
        best, step = summary.get("best_eval_loss"), summary.get("best_eval_step")
        if self._best is not None and best in (None, self._best[1]):
            step, best = self._best
        at = f" at step {step:,}" if isinstance(step, int) else ""
        rows: list[tuple[str, str]] = [
            ("ended", str(summary.get("reason", "done"))),
            ("steps", q.count(summary.get("steps", self._row.get("step")))),
            ("tokens", q.count(summary.get("tokens", self._row.get("tokens")))),
            ("time", q.clock(summary.get("seconds", self._clock() - self._started))),
            ("loss", q.decimal(summary.get("final_loss", self._row.get("loss")))),
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

    # -- how it gets there ---------------------------------------------------

    def _open_live(self) -> None:
        self._live = Live(
            self._block(self._clock()),
            console=self._terminal,
            auto_refresh=False,
            transient=False,
        )
        self._live.start()

    def _draw(self, now: float) -> None:
        live = self._live
        if live is not None:
            self._drawn = now
            self._guarded(lambda: live.update(self._block(now), refresh=True))

    def _print(self, text: str, style: str = "") -> None:
        if self._silent:
            return
        if self._terminal.is_terminal and not self._terminal.is_dumb_terminal:
            shown = Text(text, style=style)
            shown.highlight_regex(_BEARS_LOSS, "bold green")
            self._guarded(lambda: self._terminal.print(shown))
        else:
            self._guarded(lambda: self._write_plain(text))

    def _write_plain(self, text: str) -> None:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        safe = text.replace(q.UNKNOWN, "-") if not encoding.startswith("utf") else text
        self._stream.write(safe.encode(encoding, "replace").decode(encoding) + "\n")
        self._stream.flush()

    def _guarded(self, action: Callable[[], object]) -> None:
        """Does something on the stream; from the first failure on, says nothing."""
        if self._silent:
            return
        try:
            action()
        except (OSError, ValueError):  # closed pipe, closed file, wrong encoding
            self._silent = True
            self._abandon_live()
            if self._stream is sys.stdout:
                _discard_standard_output()

    def _abandon_live(self) -> None:
        """Gives the standard streams back without writing another character."""
        live, self._live = self._live, None
        self._terminal.quiet = True
        if live is not None:
            with contextlib.suppress(OSError, ValueError):
                live.stop()


def _wrapped(line: str) -> str:
    """A line of `LINE_WIDTH` characters or less, or several; words stay whole."""
    if len(line) <= LINE_WIDTH:
        return line
    return "\n".join(
        textwrap.wrap(
            line,
            LINE_WIDTH,
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    )


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


def _discard_standard_output() -> None:
    """Keeps the interpreter from failing at exit when it flushes a closed pipe."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return
