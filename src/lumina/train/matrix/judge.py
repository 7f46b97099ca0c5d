"""What a cell's run is beside its reference: the figures, and the status they give."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lumina.features import FEATURES, Tolerance
from lumina.features.measured import ABSENT, VERIFIED
from lumina.quantities import scientific
from lumina.train.matrix.cell import Cell, told_idle, trial_of
from lumina.train.matrix.process import Trained
from lumina.train.matrix.setting import LAST

DIFFERS, REFUSED, FAILED = "differs", "refused", "failed"

STATUSES = {
    VERIFIED: "trained, every feature was seen to act, and losses and gradients are "
    "those of the reference within the tolerance",
    DIFFERS: "trained, but losses or gradients are not those of the reference, or a "
    "feature did not act",
    REFUSED: "refused before training, with a code and a reason",
    FAILED: "broke off, or did not end in time",
    ABSENT: "needs what this machine has not: a GPU, memory beside it, a package; or a "
    "feature had nothing to do in a model so small",
}
"""What each status means."""


@dataclass(frozen=True)
class Verdict:
    """What was found of a cell.

    Attributes:
        status: a key of `STATUSES`.
        why: a sentence; empty where everything is as it should be.
        code: of a refusal or a failure, or "".
        figures: measured numbers, those of the reference beside them.
        live: feature -> what showed that it acted.
    """

    status: str
    why: str = ""
    code: str = ""
    figures: Mapping[str, float | None] | None = None
    live: Mapping[str, str] | None = None


def judge(
    cell: Cell,
    run: Trained,
    reference: Trained,
    without: Mapping[str, Trained],
) -> Verdict:
    """Compare a cell's run with its reference.

    Args:
        cell: what was tried.
        run: its run.
        reference: the run that it has to agree with.
        without: feature that changes numbers -> the reference without it, where that
            was run: it has to be another one.
    """
    untrained = judged(run)
    if untrained is not None:
        return untrained
    if reference.error is not None:
        told = reference.error
        why = f"the reference did not train: {told['message']}"
        return Verdict(FAILED, why, told["code"])
    figures = compared(run, reference)
    live, absent = _liveness(cell, run, reference, without)
    if absent:
        return Verdict(DIFFERS, "; ".join(absent), figures=figures, live=live)
    problems = _problems(figures, cell.tolerance)
    # Copies that learn apart end differently in the reference as well.
    if run.states_agree is False and reference.states_agree is not False:
        problems.append("the processes ended with different weights or moments")
    status = DIFFERS if problems else VERIFIED
    return Verdict(status, "; ".join(problems), figures=figures, live=live)


def judged(run: Trained) -> Verdict | None:
    """What a run that did not train says without a reference; None: it trained."""
    told = run.error
    if told is None:
        return _idle(run)
    refused = told["code"].startswith("E0")
    return Verdict(REFUSED if refused else FAILED, told["message"], told["code"])


def _idle(run: Trained) -> Verdict | None:
    """A run that shows nothing of a feature, because it had nothing to do."""
    why = told_idle(run.found["idle"])
    return Verdict(ABSENT, why) if why else None


def compared(run: Trained, reference: Trained) -> dict[str, float | None]:
    """The numbers of both runs, and how far they are apart.

    `gradient_error` is the norm of the difference over the norm of the reference, of
    all parameters of the first step together; `gradient_slope` is what the reference's
    gradients have to be multiplied by to be nearest. Infinite where the two do not have
    gradients of the same parameters.
    """
    mine, other = run.found, reference.found
    error, slope = _gradients(run.gradients(), reference.gradients())
    learned = [statistics.fmean(one["losses"][-LAST:]) for one in (mine, other)]
    return {
        "first_loss": mine["losses"][0],
        "first_loss_reference": other["losses"][0],
        "first_loss_error": _relative(mine["losses"][0], other["losses"][0]),
        "gradient_error": error,
        "gradient_slope": slope,
        "learned": learned[0],
        "learned_reference": learned[1],
        "learned_error": _relative(*learned),
        "memory": mine["memory"],
        "memory_reference": other["memory"],
        "held": sum(mine["held"].values()),
        "held_reference": sum(other["held"].values()),
        "step_seconds": _step(mine),
        "step_seconds_reference": _step(other),
        "skipped": mine["skipped"],
        **_shared(run),
    }


def _shared(run: Trained) -> dict[str, float | None]:
    """What several processes sent in a step, and whether they ended alike (1 or 0)."""
    agree = run.states_agree
    alike = {} if agree is None else {"states_agree": float(agree)}
    return {**run.found.get("sent", {}), **alike}


def _problems(figures: Mapping[str, float | None], allowed: Tolerance) -> list[str]:
    """What is out of the tolerance, in words."""
    words = {
        "first_loss_error": ("the first loss", allowed.first_loss),
        "gradient_error": ("the gradients of the first step", allowed.gradients),
        "learned_error": (f"the mean loss of the last {LAST} steps", allowed.learned),
    }
    return [
        f"{what}: {scientific(error)} off, {scientific(bound)} allowed"
        for name, (what, bound) in words.items()
        if not ((error := figures[name]) is not None and error <= bound)
    ]


def _liveness(
    cell: Cell, run: Trained, reference: Trained, without: Mapping[str, Trained]
) -> tuple[dict[str, str], list[str]]:
    """What showed each feature, and what was not seen."""
    live: dict[str, str] = {}
    absent = []
    for name in cell.features:
        trial = trial_of(name)
        if trial.planned and name not in run.found["features"]:
            absent.append(f"{name} is not in the run's plan")
            continue
        if trial.keeps and trial.planned and name in reference.found["features"]:
            absent.append(f"the reference has {name}, too")
            continue
        missing = trial.missing(run.seen, reference.seen)
        if missing:
            absent.append(f"{name}: {missing}")
            continue
        shown = ["plan"] if trial.planned else []
        if trial.evident:
            shown.append(_evidence(name))
        if not trial.keeps and name in without:
            if not _others(reference, without[name]):
                absent.append(f"{name}: the run without it is the same")
                continue
            shown.append("other numbers than without it")
        live[name] = ", ".join(shown)
    return live, absent


def _evidence(name: str) -> str:
    trial = FEATURES[name].trial
    assert trial is not None
    kinds = {
        "calls": trial.calls,
        "computed again": trial.recomputes,
        "metrics": trial.columns,
        "parameters": trial.tensors,
        "figures": trial.figures,
    }
    return ", ".join(kind for kind, names in kinds.items() if names)


def _others(run: Trained, without: Trained) -> bool:
    """Whether two references trained or evaluated differently."""
    if without.error is not None:
        return True
    numbers = [(one.found["losses"], one.found["evaluated"]) for one in (run, without)]
    return numbers[0] != numbers[1]


def _gradients(
    mine: Mapping[str, Any], other: Mapping[str, Any]
) -> tuple[float, float]:
    if mine.keys() != other.keys() or not mine:
        return math.inf, math.nan
    difference = square = product = 0.0
    for name, theirs in other.items():
        if mine[name].shape != theirs.shape:
            return math.inf, math.nan
        a, b = mine[name].double(), theirs.double()
        difference += float(((a - b) ** 2).sum())
        square += float((b**2).sum())
        product += float((a * b).sum())
    if square == 0:
        return (0.0, 1.0) if difference == 0 else (math.inf, math.nan)
    return math.sqrt(difference / square), product / square


def _relative(value: float | None, reference: float | None) -> float | None:
    if value is None or reference is None:
        return None
    return abs(value - reference) / abs(reference) if reference else abs(value)


def _step(found: Mapping[str, Any]) -> float:
    """The median of the steps of the second half."""
    seconds: list[float] = found["step_seconds"]
    return statistics.median(seconds[len(seconds) // 2 :])
