"""The rows of the experience store, and the checks that every value of them passes.

A store is a file that anything may have written. A value of another type, or outside of
its range, is refused here, before anything reads it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

Check = Callable[[object], Any]
"""Returns the value; raises ValueError with what is wrong about it."""

MOST_POINTS = 60
"""Points of a curve that are kept."""

MOST_ENTRIES = 64
"""Entries of a mapping."""

NAME = r"[a-z][a-z0-9_]{0,63}"
"""An anomaly, an action or an option."""

KIND = r"[A-Za-z0-9_+]{1,100}:[0-9]{1,4}[KMBT]:[A-Za-z0-9_]{1,64}"
"""A kind of run (`lumina.plan.experience.run_kind`)."""

VERDICTS = ("better", "same", "worse", "unclear")
STATUSES = ("finished", "interrupted", "failed", "killed")


def text(pattern: str) -> Check:
    """A text that the pattern describes as a whole."""
    whole = re.compile(pattern)

    def check(value: object) -> str:
        if not isinstance(value, str) or not whole.fullmatch(value):
            raise ValueError(f"{_shown(value)} is not of the form {pattern}")
        return value

    return check


def one_of(words: tuple[str, ...]) -> Check:
    """One of some words."""
    return text("|".join(words))


def printable(longest: int) -> Check:
    """A text without control characters."""

    def check(value: object) -> str:
        good = isinstance(value, str) and len(value) <= longest
        if not good or not str(value).isprintable():
            raise ValueError(
                f"{_shown(value)} is no printable text of at most {longest} characters"
            )
        return str(value)

    return check


def whole(most: int, least: int = 0) -> Check:
    """An integer within bounds."""

    def check(value: object) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"{_shown(value)} is no integer from {least} to {most}")
        return value

    return check


def real(least: float, most: float, *, optional: bool = False) -> Check:
    """A finite number within bounds; None too where it is optional."""

    def check(value: object) -> float | None:
        if value is None and optional:
            return None
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not least <= float(value) <= most:  # type: ignore[arg-type]
            raise ValueError(f"{_shown(value)} is no number from {least:g} to {most:g}")
        return float(value)  # type: ignore[arg-type]

    return check


def scalars(value: object) -> dict[str, Any]:
    """A mapping of names to texts, numbers and switches."""
    if not isinstance(value, dict) or len(value) > MOST_ENTRIES:
        raise ValueError(f"it is no mapping of at most {MOST_ENTRIES} entries")
    for key, one in value.items():
        if not isinstance(key, str) or not re.fullmatch(NAME, key):
            raise ValueError(f"{_shown(key)} is no name")
        if one is None or isinstance(one, bool):
            continue
        if isinstance(one, int | float):
            real(-1e18, 1e18)(one)
        else:
            printable(200)(one)
    return dict(value)


def counts(value: object) -> dict[str, int]:
    """A mapping of names to numbers of times."""
    found = scalars(value)
    for one in found.values():
        whole(10**9)(one)
    return found


def points(value: object) -> list[list[float]]:
    """A curve: [tokens, loss] pairs with rising tokens."""
    if not isinstance(value, list) or len(value) > MOST_POINTS:
        raise ValueError(f"it is no list of at most {MOST_POINTS} points")
    before = -1.0
    for point in value:
        if not isinstance(point, list) or len(point) != 2:
            raise ValueError(f"{_shown(point)} is no point of a curve")
        tokens = real(0, 1e18)(point[0])
        real(-1e6, 1e6)(point[1])
        if tokens <= before:
            raise ValueError("its points do not rise")
        before = tokens
    return [[float(x), float(y)] for x, y in value]


_LOSS = real(-1e6, 1e6, optional=True)

RUN: dict[str, Check] = {
    "id": text("[0-9a-f]{16}"),
    "name": printable(200),
    "time": real(0, 1e11),
    "status": one_of(STATUSES),
    "kind": text(KIND),
    "data": text("[0-9a-f]{16}|"),
    "parameters": whole(10**15),
    "steps": whole(10**12),
    "planned_steps": whole(10**12),
    "tokens": whole(10**18),
    "final_loss": _LOSS,
    "eval_loss": _LOSS,
    "best_eval_loss": _LOSS,
    "options": scalars,
    "machine": scalars,
    "failures": counts,
    "curve": points,
    "evaluations": points,
}
"""Column of a run -> its check."""

OUTCOME: dict[str, Check] = {
    "run": text("[0-9a-f]{16}"),
    "number": whole(10**9),
    "step": whole(10**12),
    "anomaly": text(NAME),
    "context": text(rf"{KIND}:{NAME}"),
    "action": text(NAME),
    "mode": one_of(("shadow", "on")),
    "verdict": one_of(VERDICTS),
    "confidence": real(0, 1),
    "measured": real(-1e18, 1e18, optional=True),
    "expected": real(-1e18, 1e18, optional=True),
}
"""Column of an outcome -> its check."""

NESTED = ("options", "machine", "failures", "curve", "evaluations")
"""Columns that a table keeps as JSON."""


@dataclass(frozen=True)
class RunRecord:
    """One run.

    Attributes:
        id: of its first start; the same after a resume.
        name: of its folder.
        time: when it ended, in Unix seconds.
        status: how it ended.
        kind: kind of model, size class and optimizer.
        data: fingerprint of its data; empty where that is not known.
        parameters: of the model, in all.
        steps: that were trained, of `planned_steps`.
        tokens: that were trained on.
        final_loss: of the last step.
        eval_loss: the last held-out loss; `best_eval_loss` the lowest.
        options: settings that matter for the loss, as they were planned.
        machine: the device, and how the steps were laid out on it.
        failures: kind of event -> how often.
        curve: [tokens, training loss], means of stretches.
        evaluations: [tokens, held-out loss].
    """

    id: str
    name: str
    time: float
    status: str
    kind: str
    data: str
    parameters: int
    steps: int
    planned_steps: int
    tokens: int
    final_loss: float | None
    eval_loss: float | None
    best_eval_loss: float | None
    options: dict[str, Any]
    machine: dict[str, Any]
    failures: dict[str, int]
    curve: list[list[float]]
    evaluations: list[list[float]]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @staticmethod
    def checked(values: Mapping[str, Any]) -> RunRecord:
        """A record of values from outside.

        Raises:
            ValueError: with the column and what is wrong about its value.
        """
        return RunRecord(**_checked(RUN, values))


@dataclass(frozen=True)
class OutcomeRecord:
    """What came of one decision.

    Attributes:
        run: the id of its run.
        number: of the decision within the run.
        step: when it was made.
        anomaly: what was found.
        context: kind of run and phase of training.
        action: what was done, or in mode "shadow" would have been done.
        mode: "on", or "shadow".
        verdict: "better", "same", "worse" or "unclear".
        confidence: of the decision.
        measured: what was measured after it.
        expected: what was expected without it.
    """

    run: str
    number: int
    step: int
    anomaly: str
    context: str
    action: str
    mode: str
    verdict: str
    confidence: float
    measured: float | None
    expected: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @staticmethod
    def checked(values: Mapping[str, Any]) -> OutcomeRecord:
        """A record of values from outside.

        Raises:
            ValueError: with the column and what is wrong about its value.
        """
        return OutcomeRecord(**_checked(OUTCOME, values))


def _checked(checks: Mapping[str, Check], values: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(values, Mapping) or values.keys() != checks.keys():
        raise ValueError(f"a row needs {', '.join(checks)}")
    found = {}
    for name, check in checks.items():
        try:
            found[name] = check(values[name])
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return found


def _shown(value: object) -> str:
    """A value in a message, however long it is."""
    if isinstance(value, float) and not math.isfinite(value):
        return "a number that is not finite"
    shown = (
        repr(value) if isinstance(value, str | int | float) else type(value).__name__
    )
    return shown if len(shown) <= 60 else shown[:57] + "..."
