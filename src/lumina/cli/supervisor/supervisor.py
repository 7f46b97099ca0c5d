"""Starts a training in processes of its own, watches it, and starts it again.

The supervisor neither trains nor reads data. It starts the processes, passes signals
on, and looks at their signs of life. After a crash, a hang or the loss of a rank it
ends what is left and starts all again; they go on from the newest checkpoint that is
whole, as any resumed run does.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from lumina import heartbeat
from lumina.cli.supervisor.choice import Choice
from lumina.cli.supervisor.hangs import Hangs, furthest, stack_of
from lumina.cli.supervisor.processes import SAVING, Processes, exit_code
from lumina.cli.supervisor.restarts import Restarts
from lumina.cli.supervisor.silence import FLOOR, Silence, Watch
from lumina.cli.supervisor.verdict import ENDING_SIGNALS, Verdict, judge
from lumina.errors import LuminaError
from lumina.quantities import duration
from lumina.state.events import EventLog
from lumina.state.liveness import end_supervision, supervise

POLL_SECONDS = 0.05
LOOK_SECONDS = 0.5

_OUT_OF_MEMORY = Path("/sys/fs/cgroup/memory.events")


@dataclass(frozen=True)
class Settings:
    """How a training is supervised.

    Attributes:
        choice: whether it is started again.
        max_restarts: restarts in a row that may bring nothing.
        restart_delay: seconds before the first of them.
        hang_timeout: seconds that a step may take without a sign of life; None: by the
            time that the steps take; 0: nothing counts as hung.
    """

    choice: Choice
    max_restarts: int = 3
    restart_delay: float = 5.0
    hang_timeout: float | None = None


class Supervisor:
    """One training, with all of its attempts.

    Args:
        command: the program that trains, and its words.
        ranks: its environments, one for each rank, given anew for every attempt.
        settings: how it is supervised.
        say: takes lines for a person.
        alone: there is one process, which is no rank of several.
        elsewhere: says why another machine keeps the run from going on; None while it
            does not.
        may_be_one: one process trains in place of several that fail before their first
            step.
    """

    def __init__(
        self,
        command: Sequence[str],
        ranks: Callable[[], Sequence[dict[str, str]]],
        settings: Settings,
        say: Callable[[str], None],
        *,
        alone: bool,
        elsewhere: Callable[[], str | None] | None = None,
        may_be_one: bool = False,
    ) -> None:
        self._command = list(command)
        self._ranks = ranks
        self._settings = settings
        self._say = say
        self._alone = alone
        self._elsewhere = elsewhere
        self._may_be_one = may_be_one
        self._processes = Processes()
        self._asked: int | None = None
        self._watch: Watch | None = None
        self._restarts = Restarts(settings.max_restarts, settings.restart_delay)
        self._folder = Path(tempfile.mkdtemp(prefix="lumina-signs-"))
        self._run: Path | None = None  # outlives the attempt that said it
        self._lock: int | None = None

    def run(self) -> int:
        """Train until the end, a signal, or a failure that no restart mends.

        Returns:
            The exit code, which is that of the training.
        """
        numbers = _heeded()
        previous = {number: signal.signal(number, self._pass_on) for number in numbers}
        before: Verdict | None = None
        fallen = False
        restart: dict[str, Any] = {}
        try:
            while True:
                verdict = self._attempt(restart)
                if verdict is None:
                    return 0
                wait = self._wait_before_next(verdict, before)
                if wait is None and self._falls_back(verdict):
                    wait, fallen = 0.0, True
                if wait is None:
                    return verdict.code
                restart = {
                    "number": self._restarts.made,
                    "cause": verdict.cause,
                    "step": verdict.step,
                    "time": time.time(),
                    "run": str(self._run) if self._run else None,
                    "one_process": fallen,
                }
                if not self._sleep(wait):
                    return self._ended_while_waiting()
                before = verdict
        finally:
            self._processes.kill()
            for number, handler in previous.items():
                signal.signal(number, handler)
            if self._run is not None and self._lock is not None:
                end_supervision(self._run, self._lock)
            shutil.rmtree(self._folder, ignore_errors=True)

    # -- one attempt -----------------------------------------------------------

    def _attempt(self, restart: dict[str, Any]) -> Verdict | None:
        """Start the processes and wait for their end; None: they have done all."""
        for path in self._folder.iterdir():
            path.unlink()
        heartbeat.write(
            self._folder / "supervision.json", self._settings.choice.to_dict()
        )
        heartbeat.write(self._folder / "restart.json", restart)
        ranks = self._ranks()
        signs = {heartbeat.FOLDER: str(self._folder)}
        floor = self._settings.hang_timeout
        self._watch = Watch(
            len(ranks), FLOOR if floor is None else floor, time.monotonic()
        )
        killed = _killed_for_memory()
        self._processes = Processes()
        self._processes.start(self._command, [own | signs for own in ranks])
        if self._asked is not None:  # while they were being started
            self._processes.forward(self._asked)
        hung = self._until_ended()
        if hung is not None:
            return hung
        for rank in range(len(ranks)):
            self._note_run(rank)
        words = [self._word(rank, "failure") for rank in range(len(ranks))]
        verdict = judge(
            self._processes.codes,
            self._processes.first,
            words,
            step=furthest(self._folder, len(ranks)),
            killed_for_memory=_killed_for_memory() > killed,
        )
        if verdict is not None and verdict.signal:
            stack = stack_of(self._folder, verdict.rank or 0)
            verdict = replace(verdict, details={"stack": stack} if stack else {})
        return verdict

    def _until_ended(self) -> Verdict | None:
        """Wait for the processes; a verdict where they hung and were ended."""
        processes, asked = self._processes, [128 + n for n in ENDING_SIGNALS]
        assert self._watch is not None
        hangs = Hangs(self._folder, processes, self._watch, alone=self._alone)
        named: Silence | None = None
        lost: str | None = None
        looked = time.monotonic()
        while not processes.ended(asked):
            time.sleep(POLL_SECONDS)
            now = time.monotonic()
            if now - looked < LOOK_SECONDS or self._asked is not None:
                continue
            looked = now
            if lost is None and self._elsewhere is not None:
                lost = self._elsewhere()
                if lost is not None:
                    self._say(f"{lost}; the processes of this machine end too")
                    processes.leave_soon()
            found = hangs.look(now)
            if found is None:
                if named is not None:
                    self._tell("hang_over", "info", "the training goes on")
                named = None
            elif named is None:
                named = hangs.named(found)
                self._tell_hang(named, hangs)
            elif found.seconds > found.patience and self._restarting:
                self._note_run(0)
                return hangs.end(replace(found, ranks=named.ranks))
        if lost is not None and processes.first is not None:
            return Verdict(1, lost, False, "another machine ended")
        return None

    def _tell_hang(self, found: Silence, hangs: Hangs) -> None:
        """Say which rank hangs, and where."""
        text = found.in_words(several=not self._alone)
        stack = hangs.stack(found.ranks[0])
        self._say(text)
        for line in stack.splitlines()[:8]:
            self._say(f"  {line.strip()}")
        self._tell(
            "hang_suspected",
            "warning",
            text,
            step=found.step,
            ranks=list(found.ranks),
            seconds=round(found.seconds, 1),
            activity=found.activity,
            stack=stack,
        )

    # -- between two attempts --------------------------------------------------

    @property
    def _restarting(self) -> bool:
        """Whether a failure of this training is followed by a restart."""
        if self._settings.choice.on is not None:
            return self._settings.choice.on
        return bool(self._word(0, "plan").get("supervised"))

    def _wait_before_next(
        self, verdict: Verdict, before: Verdict | None
    ) -> float | None:
        """Seconds until the next attempt; None where there is none, which is said."""
        asked = self._asked is not None or verdict.code in [
            128 + number for number in ENDING_SIGNALS
        ]
        if asked:
            return None
        if not self._restarting:
            if verdict.signal and not self._alone:
                self._say(
                    f"{verdict.cause}; the others end too\n  what to do: go on from "
                    "the last checkpoint with --auto-resume; a rank killed by the "
                    "system may have run out of memory"
                )
            return None
        wait = self._restarts.after(verdict.step) if verdict.mends else None
        why = verdict.why_not
        if verdict.mends and verdict.same_as(before):
            wait, why = None, "the same error came again at the same step"
        elif verdict.mends and wait is None:
            why = f"{self._restarts.in_vain} restarts in a row came no step further"
            if not self._settings.max_restarts:
                why = "max_restarts is 0"
        if wait is None:
            ending = f"{verdict.cause}; the training is not started again: {why}"
            self._say(ending)
            self._tell("gave_up", "critical", ending, verdict)
            return None
        text = (
            f"{verdict.cause}; the training is started again in {duration(wait)} "
            f"(restart {self._restarts.made})"
        )
        self._say(text)
        self._tell("process_ended", "error", text, verdict, wait_seconds=wait)
        return wait

    def _falls_back(self, verdict: Verdict) -> bool:
        """Whether one process goes on in place of several, which is said.

        Only where they failed before a step was trained, by something that is not the
        settings' or the data's fault: what fails later is no matter of their number.
        """
        early = verdict.mends and verdict.step <= 0 and self._asked is None
        if not self._may_be_one or not early:
            return False
        self._may_be_one = False
        text = (
            f"{verdict.cause}, before the first step: one process trains in place of "
            "several; --strict forbids that"
        )
        self._say(text)
        self._tell("fell_back_to_one_process", "warning", text, verdict)
        self._ranks, self._alone = lambda: [{}], True
        self._restarts.made += 1
        return True

    def _sleep(self, seconds: float) -> bool:
        """Wait; False when a signal to end came meanwhile."""
        end = time.monotonic() + seconds
        while self._asked is None and time.monotonic() < end:
            time.sleep(min(POLL_SECONDS, max(end - time.monotonic(), 0)))
        return self._asked is None

    def _ended_while_waiting(self) -> int:
        assert self._asked is not None
        name = signal.Signals(self._asked).name
        self._say(f"ended by {name} before the restart; the last checkpoint stands")
        return exit_code(-self._asked)

    def _tell(
        self,
        kind: str,
        severity: Any,
        message: str,
        verdict: Verdict | None = None,
        *,
        step: int | None = None,
        **data: Any,
    ) -> None:
        """Append an event to the run's own, where there is a run already."""
        if verdict is not None:
            step = verdict.step
            data = {
                "cause": verdict.cause,
                "rank": verdict.rank,
                "signal": verdict.signal or None,
                **verdict.details,
                **data,
            }
        self._note_run(0)
        # A folder in which no run has begun stays free for the next attempt. Torch,
        # which `RunDirectory` would load, is not for this process.
        if self._run is None or not (self._run / "config.yaml").is_file():
            return
        code = verdict.error if verdict is not None else None
        try:
            log = EventLog(self._run / "events.jsonl")
            log.emit(
                kind,
                severity,
                code,
                message,
                step if step is not None and step >= 0 else None,
                **data,
            )
            log.close()
        except LuminaError as error:  # such as a full disk: what is said remains
            self._say(str(error))

    # -- what the processes have left ------------------------------------------

    def _note_run(self, rank: int) -> None:
        path = self._word(rank, "run").get("path")
        if path is None:
            return
        self._run = run = Path(path)
        # A folder in which no run has begun has to stay empty.
        if self._lock is None and (run / "config.yaml").is_file():
            self._lock = supervise(run)

    def _word(self, rank: int, name: str) -> dict[str, Any]:
        return heartbeat.read(heartbeat.word_of(self._folder, rank, name))

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTSTP:
            self._pause()
            return
        if number != SAVING:
            self._asked = self._asked or number
        self._processes.forward(number)

    def _pause(self) -> None:
        """Ctrl-Z holds the training too, until it is continued."""
        self._processes.hold(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        self._processes.hold(signal.SIGCONT)
        if self._watch is not None:
            self._watch.forgive(time.monotonic())


def _heeded() -> list[signal.Signals]:
    """The signals that are passed on: not those that were ignored from the start."""
    numbers = (*ENDING_SIGNALS, SAVING, signal.SIGTSTP)
    return [
        number
        for number in numbers
        if number == SAVING or signal.getsignal(number) != signal.SIG_IGN
    ]


def _killed_for_memory() -> int:
    """How many processes the system has ended here for want of memory."""
    try:
        lines = _OUT_OF_MEMORY.read_text().splitlines()
    except OSError:
        return 0
    counts = dict(line.split() for line in lines if len(line.split()) == 2)
    return int(counts.get("oom_kill", 0))
