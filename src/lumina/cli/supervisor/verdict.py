"""What ended a training, and whether starting it again can help."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lumina.cli.supervisor.processes import exit_code

CAN_MEND = {
    "E107": "the source may be there again",
    "E201": "the memory may be free again",
    "E202": "the memory may be free again",
}
"""Codes of failures that may pass by themselves."""

REPEATS = {
    "E0": "the command or its settings have to change",
    "E1": "the data has to change",
    "E2": "the machine has to change",
    "E301": "the same steps would diverge again",
    "E303": "no checkpoint is whole",
    "E304": "there is nothing to go on with",
}
"""Codes, or how they begin, of failures that would come again, and why."""

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that ask a training to end."""

FATAL_SIGNALS = (
    signal.SIGKILL,
    signal.SIGSEGV,
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
)
"""Signals that end a process without its doing, after which it is started again."""


@dataclass(frozen=True)
class Verdict:
    """Why an attempt ended.

    Attributes:
        code: the exit code of the command, if this is its end.
        cause: what happened, in words.
        mends: starting again can help.
        why_not: why it cannot, in words; empty where it can.
        rank: which rank it was; None: there is only one process.
        error: the code of a `LuminaError`, where there is one.
        signal: the number of the signal; 0: there was none.
        kind: the type of an exception; "signal" or "hang".
        step: completed steps of the run at that time; -1: not known.
        details: further facts, for the event.
    """

    code: int
    cause: str
    mends: bool
    why_not: str = ""
    rank: int | None = None
    error: str | None = None
    signal: int = 0
    kind: str = ""
    step: int = -1
    details: Mapping[str, Any] = field(default_factory=dict)

    def same_as(self, other: Verdict | None) -> bool:
        """Whether it is the same exception at the same step once more.

        What the system or a person does to a process comes by chance, an exception
        that comes twice at one place does not.
        """
        return (
            other is not None
            and self.kind not in ("signal", "hang")
            and (self.kind, self.cause, self.step)
            == (other.kind, other.cause, other.step)
        )


def judge(
    codes: Sequence[int],
    first: int | None,
    words: Sequence[Mapping[str, Any]],
    *,
    step: int,
    killed_for_memory: bool,
) -> Verdict | None:
    """Why processes ended; None where all have done what they were to do.

    Args:
        codes: how each rank has ended, negative for a signal.
        first: the rank that was seen to end first with an error.
        words: what each rank has said of its failure; empty where it said nothing.
        step: completed steps of the run; -1: not known.
        killed_for_memory: the system has ended a process for want of memory.
    """
    if first is None:
        return None
    rank = _cause(codes, first, words)
    code, word = codes[rank], words[rank]
    only = len(codes) == 1
    who = "the training" if only else f"rank {rank}"
    named = None if only else rank
    step = max(step, int(word.get("step", -1)))
    if code < 0:
        return _of_signal(-code, who, named, step, killed_for_memory)
    if code in [128 + number for number in ENDING_SIGNALS]:
        return Verdict(
            code, f"{who} was asked to end", False, "it was asked to end", named
        )
    return _of_exception(code, word, who, named, step)


def _cause(codes: Sequence[int], first: int, words: Sequence[Mapping[str, Any]]) -> int:
    """The rank that failed by itself; others fail because they have lost it."""
    fatal = [-number for number in FATAL_SIGNALS]
    for rank, code in enumerate(codes):
        # Those that were killed after the first failure are no cause.
        if code in fatal and (rank == first or code != -signal.SIGKILL):
            return rank
    if words[first].get("lost_another"):
        for rank, word in enumerate(words):
            if word and not word.get("lost_another"):
                return rank
        for rank, code in enumerate(codes):
            if code in fatal:
                return rank
    return first


def _of_signal(
    number: int, who: str, rank: int | None, step: int, for_memory: bool
) -> Verdict:
    name = signal.strsignal(number) or "unknown"
    cause = f"{who} was ended by signal {number} ({name})"
    asked = number in ENDING_SIGNALS
    mends = number in FATAL_SIGNALS
    why = "" if mends else "it was asked to end" if asked else "it was ended on purpose"
    if number == signal.SIGKILL and for_memory:
        cause += ", by the system for want of memory"
    return Verdict(
        exit_code(-number), cause, mends, why, rank, None, number, "signal", step
    )


def _of_exception(
    code: int, word: Mapping[str, Any], who: str, rank: int | None, step: int
) -> Verdict:
    error, kind = word.get("code"), str(word.get("type", ""))
    said = str(word.get("message", "")).strip() or f"exit code {code}"
    cause = f"{who} failed: {said}"
    why = ""
    if error is not None and error not in CAN_MEND:
        why = next(
            (why for start, why in REPEATS.items() if error.startswith(start)),
            "it would come again",
        )
    elif not word and code == 2:
        why = REPEATS["E0"]
    return Verdict(code, cause, not why, why, rank, error, 0, kind, step)
