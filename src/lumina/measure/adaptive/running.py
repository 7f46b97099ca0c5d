"""One scenario under one arm: its runs, its attempts, and what they cost."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from lumina.cache_root import cache_in
from lumina.measure.adaptive.adapter import Adapter, Task
from lumina.measure.adaptive.arms import Arm, faults_of, recipe, shortened
from lumina.measure.adaptive.log import read_log
from lumina.measure.adaptive.pool import in_child
from lumina.measure.adaptive.scenario import Recipe, Scenario
from lumina.measure.adaptive.texts import write_texts

PROBE = 0.06
"""Share of the tokens that each probe of a rate search costs."""


@dataclass(frozen=True)
class Job:
    """A scenario under an arm.

    Attributes:
        scenario: what is wrong.
        arm: what is done about it.
        adapter: the trainer.
        text: that all pieces are cut from.
        tuned: of the competent arm.
        seconds: most of an attempt.
        memory: a file of what earlier runs have taught, which is copied; None: none.
    """

    scenario: Scenario
    arm: Arm
    adapter: Adapter
    text: str
    tuned: Mapping[str, Any]
    seconds: float = 60.0
    memory: Path | None = None


def run_job(job: Job, folder: Path) -> dict[str, Any]:
    """Run it, and return its row.

    The row has "status": "done", "failed" (with "why") or "refused"; "loss", the last
    held-out loss of a run that is done; "curve", [tokens computed, step, loss] of each
    evaluation; "tokens", "steps" and "seconds", everything that was computed; "budget",
    what the steps of the recipe come to; "faults" and "decisions"; "attempts".
    """
    scenario, arm = job.scenario, job.arm
    facts = {
        "scenario": scenario.id,
        "arm": arm.name,
        "trainer": job.adapter.name,
    }
    whole = recipe(scenario, arm, found=job.tuned)
    if job.memory is not None:
        own = shutil.copy(job.memory, folder / job.memory.name)
        whole = replace(whole, experience=str(own))
    faults = faults_of(scenario, arm, whole.steps)
    if why := job.adapter.refuses(whole, faults):
        return {**facts, "status": "refused", "why": why}
    with cache_in(folder / "cache"):
        return {**facts, **_outcome(job, whole, faults, folder)}


def _outcome(
    job: Job, whole: Recipe, faults: Sequence[dict[str, Any]], folder: Path
) -> dict[str, Any]:
    """The row of what the arm does with a scenario that has an answer to it."""
    scenario, arm = job.scenario, job.arm

    def made(
        name: str, one: Recipe, happens: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        task = Task(folder / name, one, tuple(happens))
        write_texts(task.folder, job.text, scenario)
        return attempted(job.adapter, task, job.seconds)

    if arm.best_of:
        runs = [
            made(f"{n}", recipe(scenario, arm, factor=factor, found=job.tuned), faults)
            for n, factor in enumerate(arm.best_of)
        ]
        return min(runs, key=_loss_or_worst)
    spent: list[dict[str, Any]] = []
    if arm.probes:
        short = shortened(whole, max(1, round(whole.steps * PROBE)))
        lowest, factor = math.inf, 1.0
        for n, one in enumerate(arm.probes):
            rate = min(1.0, whole.learning_rate * one)
            probe = made(f"probe{n}", replace(short, learning_rate=rate), ())
            spent.append(probe)
            if _loss_or_worst(probe) < lowest:
                lowest, factor = _loss_or_worst(probe), one
        rate = min(1.0, whole.learning_rate * factor)
        rest = shortened(whole, whole.steps - short.steps * len(arm.probes))
        whole = replace(rest, learning_rate=rate)
        faults = faults_of(scenario, arm, whole.steps)
    return _after(made("run", whole, faults), spent)


def _loss_or_worst(row: Mapping[str, Any]) -> float:
    loss = row["loss"] if row["status"] == "done" else None
    return math.inf if loss is None else float(loss)


def _after(row: dict[str, Any], spent: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The row of a run that others were made before, at its expense."""
    tokens = sum(one["tokens"] for one in spent)
    return row | {
        "tokens": row["tokens"] + tokens,
        "budget": row["budget"] + tokens,
        "seconds": round(row["seconds"] + sum(one["seconds"] for one in spent), 3),
        "curve": [[at + tokens, step, loss] for at, step, loss in row["curve"]],
    }


def attempted(adapter: Adapter, task: Task, seconds: float) -> dict[str, Any]:
    """Make one run, in as many attempts as its recipe allows; its part of a row.

    Args:
        adapter: the trainer.
        task: its folder has the texts.
        seconds: most of an attempt.
    """
    supervised = adapter.supervised(task)
    limit = seconds * (1 + task.recipe.restarts) if supervised else seconds
    attempts: list[dict[str, Any]] = []
    while True:
        work = partial(adapter.train, task, bool(attempts))
        attempts.append(in_child(work, limit))
        last = attempts[-1]
        # A hang is noticed by nothing but a supervisor, and a refusal comes again.
        ended = last["code"] == 0 or last["hung"] or supervised
        if ended or len(attempts) > task.recipe.restarts:
            break
    return _row(adapter, task, attempts)


def _row(
    adapter: Adapter, task: Task, attempts: list[dict[str, Any]]
) -> dict[str, Any]:
    lines = read_log(task.log)
    size = task.recipe.tokens
    curve: list[list[Any]] = []
    faults: list[dict[str, Any]] = []
    computed = 0
    for line in lines:
        if line["kind"] == "step":
            computed += 1
        elif line["kind"] == "eval":
            loss = line["loss"]
            finite = loss is not None and math.isfinite(loss)
            curve.append([computed * size, line["step"], loss if finite else None])
        elif line["kind"] == "fault":
            fault = {
                "name": line["name"],
                "step": line["step"],
                "tokens": computed * size,
            }
            if not any(
                one["name"] == fault["name"] and one["step"] == fault["step"]
                for one in faults
            ):
                faults.append(fault)
    last = attempts[-1]
    why = ""
    if last["hung"]:
        why = "hung"
    elif last["code"] != 0:
        why = f"signal {last['signal']}" if last["signal"] else "error"
    elif not curve or curve[-1][1] < task.recipe.steps:
        why = "ended early"
    elif curve[-1][2] is None:
        why = "loss not finite"
    watched = adapter.watched(task)
    return {
        "status": "failed" if why else "done",
        "why": why,
        "loss": curve[-1][2] if curve else None,
        "steps": computed,
        "tokens": computed * size,
        "budget": task.recipe.steps * size,
        "seconds": round(sum(one["seconds"] for one in attempts), 3),
        "learning_rate": task.recipe.learning_rate,
        "attempts": [{**one, "error": one["error"][-600:]} for one in attempts],
        "faults": faults,
        "decisions": watched.decisions,
        "notes": watched.notes,
        **({"lesson": watched.lesson} if watched.lesson else {}),
        "curve": curve,
    }
