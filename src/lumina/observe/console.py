"""What a person sees while a run goes on: a live block, or plain lines.

The console is a bystander. It never stops the run: a closed pipe or a terminal that
cannot show a character silences or simplifies it, and nothing more.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from typing import IO, Any

import rich.console
from rich.console import Group
from rich.live import Live
from rich.text import Text

from lumina import quantities as q
from lumina.observe.banner import banner_lines
from lumina.observe.run_figures import LINE_WIDTH, RunFigures
from lumina.plan.plan import Plan

REFRESH_SECONDS = 0.2

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
        self._figures = RunFigures(clock)
        self._drawn = float("-inf")
        self._printed_step = -1

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
        self._figures.memory_total = getattr(environment, "memory_bytes", None)
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
        self._figures.begin(plan, first_step, facts or {})
        self._log_every = max(plan.log_every, 1)
        if self._wants_live and not self._silent and self._live is None:
            self._guarded(self._open_live)

    def step(self, row: Mapping[str, Any]) -> None:
        """One row of `metrics.jsonl`, as soon as it is known."""
        if self._silent:
            return
        step, now = int(row["step"]), self._clock()
        self._figures.take(row, now)
        if self._live is not None:
            if now - self._drawn >= REFRESH_SECONDS:
                self._draw(now)
        elif step % self._log_every == 0 or step == self._figures.first_step + 1:
            self._printed_step = step
            self._print(self._figures.line(row))

    def eval(
        self, step: int, loss: float, shares: Mapping[str, float] | None = None
    ) -> None:
        """An evaluation ended with this loss (nats for a token), and these shares."""
        best = self._figures.note_eval(step, loss)
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
        figures = self._figures
        unsaid = figures.row and figures.row["step"] != self._printed_step
        if unsaid and self._live is None:
            self._print(figures.line(figures.row))
        self.close()
        self._print("\n".join(figures.summary_lines(summary)))

    def close(self) -> None:
        """Leaves the terminal as it was; safe to call at any time, more than once."""
        live, self._live = self._live, None
        if live is not None:
            self._guarded(lambda: live.update(self._block(self._clock())))
            self._guarded(live.stop)

    def _block(self, now: float) -> Group:
        return self._figures.block(now, self._terminal.width)

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


def _discard_standard_output() -> None:
    """Keeps the interpreter from failing at exit when it flushes a closed pipe."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return
