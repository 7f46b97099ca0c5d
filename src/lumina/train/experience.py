"""The memory of runs: what a run leaves in it, and what a run takes over from it.

A store that cannot be read or written costs a warning, never the run. What is taken
over is decided before a run begins and stands in its Plan: a resume does not look
again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lumina.assemble.ranks import Ranks
from lumina.config import Config, Source
from lumina.errors import LuminaError
from lumina.plan.decisions import asked_for
from lumina.plan.experience import run_kind
from lumina.plan.plan import Plan
from lumina.state.experience.beside import leave_earlier_runs, runs_beside
from lumina.state.experience.of_run import fingerprint_of, record_of
from lumina.state.experience.place import store_at
from lumina.state.experience.posterior import counts_for
from lumina.state.experience.store import Experience
from lumina.state.experience.strategies import start_for
from lumina.state.run_directory import RunDirectory
from lumina.train.recorder import Recorder

Tell = Callable[[dict[str, Any]], None]
"""Takes an event, as the keyword arguments of `Recorder.event`."""

_NAMED = 5


def remember(config: Config, directory: RunDirectory, recorder: Recorder) -> None:
    """Put a run that has ended into the store, however it ended.

    Args:
        config: its settings, which name the store.
        directory: its files, with its status.
        recorder: reports a store that cannot be written.
    """
    try:
        store = store_at(config.experience.experience)
        if store is None:
            return
        record, outcomes = record_of(directory)
        leave_earlier_runs(directory, runs_beside(store, record))
        store.add((record, outcomes))
    except LuminaError as error:
        # On a disk that is full, word of it may not fit either.
        with contextlib.suppress(LuminaError):
            recorder.event(**_ignored(error, "this run is not remembered"), step=None)


def with_experience(
    plan: Plan,
    config: Config,
    ranks: Ranks,
    begun: Mapping[str, Any] | None,
    tell: Tell,
) -> Plan:
    """The Plan with what earlier runs say about the actions of its orchestrator.

    Args:
        plan: decided so far; one without an orchestrator stays as it is.
        config: names the store.
        ranks: the first of them reads, and all take what it found.
        begun: the Plan that the run was begun with, where it goes on.
        tell: takes the event that says what was taken over, and from which runs.
    """
    if not plan.orchestrator:
        return plan
    if begun is not None and begun.get("orchestrator"):
        why = begun.get("reasons", {}).get("experience", "as the run began")
        runs = begun["orchestrator"].get("runs", 0)
        return _with(plan, dict(begun.get("experience", {})), why, runs)
    found = ranks.share(_looked_up(plan, config) if ranks.main else None)
    assert found is not None
    for event in found.events:
        tell(event)
    return _with(plan, found.counts, found.why, found.runs)


def start_values(
    config: Config,
    planned: Callable[[Config], Plan],
    ranks: Ranks,
    tell: Tell,
    *,
    new: bool,
    data: str = "",
) -> Config:
    """The settings of a new run, with the start values that earlier runs speak for.

    They are taken with `start_from_experience`, and never in the place of a value that
    was chosen for this run; without it they are only told.

    Args:
        config: the settings; without an orchestrator they stay as they are.
        planned: makes the Plan of settings.
        ranks: the first of them reads, and all take what it found.
        tell: takes the event that says what is proposed.
        new: the run begins here, from random weights; another stays as it is.
        data: names the content of its data; "" where only a run would tell. Runs on
            the same data are asked first.
    """
    if not new or config.adaptive.adaptive == "off" or config.stages.training_mode:
        return config
    kind = run_kind(planned(config))
    values, event = ranks.share(
        _proposed(config, kind, fingerprint_of(data)) if ranks.main else ({}, None)
    )
    if event is not None:
        tell(event)
    if not config.experience.start_from_experience:
        return config
    source = Source("decided", "start_from_experience: earlier runs did best with it")
    for leaf, value in values.items():
        config = config.override({leaf: value}, source)
    return config


@dataclass(frozen=True)
class _Found:
    """What a look into the store gave: counts, their runs, and events."""

    counts: dict[str, list[int]] = field(default_factory=dict)
    why: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    runs: int = 0


def _with(plan: Plan, counts: dict[str, list[int]], why: str, runs: int) -> Plan:
    reasons = plan.reasons | {"experience": why}
    orchestrator = plan.orchestrator | ({"runs": runs} if runs else {})
    return plan.replace(experience=counts, orchestrator=orchestrator, reasons=reasons)


def _read(config: Config) -> Experience | None:
    """What the store holds; None where it is off.

    Raises:
        LuminaError: for one that cannot be used.
    """
    store = store_at(config.experience.experience)
    return None if store is None else store.all()


def _looked_up(plan: Plan, config: Config) -> _Found:
    kind = run_kind(plan)
    try:
        held = _read(config)
    except LuminaError as error:
        why = f"cold: {error.message}"
        return _Found({}, why, [_ignored(error, "the run begins without experience")])
    if held is None:
        return _Found({}, "cold: nothing of earlier runs is used (--experience off)")
    counts, ids = counts_for(kind, held.outcomes)
    if not counts:
        why = f"cold: too few outcomes for runs of {kind}"
        return _Found({}, why, [_told(why, warm=False)])
    names = [run.name for run in held.runs if run.id in ids]
    shown = ", ".join(names[:_NAMED])
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    why = f"warm: {len(counts)} counts from the runs {shown}{more}"
    event = _told(why, warm=True, runs=names, ids=ids, counts=counts)
    return _Found(counts, why, [event], len(names))


def _proposed(
    config: Config, kind: str, data: str
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Options with the start values of earlier runs, and the event that tells them."""
    try:
        held = _read(config)
    except LuminaError:
        return {}, None  # with_experience reports it
    found = start_for(kind, held.runs if held is not None else [], data)
    best = found.strategy
    applies = config.experience.start_from_experience
    if best is None:
        # Where it was asked for, the answer is told also where it is no.
        return {}, _told(found.why, "experience_start") if applies else None
    values: dict[str, Any] = {}
    if not asked_for(config, "learning_rate"):
        values["learning_rate"] = best.learning_rate
    warm_up = ("warmup_steps", "warmup_ratio")
    if not any(asked_for(config, leaf) for leaf in warm_up):
        values |= {"warmup_steps": None, "warmup_ratio": best.warm_up}
    if not applies:
        end = "it is not taken; --start-from-experience takes it"
    elif values:
        end = "the run begins with it"
        if len(values) < len(warm_up) + 1:
            end += ", but for what was chosen for this run"
    else:
        end = "rate and warm-up were chosen for this run, and stay"
    event = _told(
        f"{found.why}: {end}",
        "experience_start",
        runs=list(best.runs),
        confidence=best.confidence,
        learning_rate=best.learning_rate,
        warm_up=best.warm_up,
        taken=sorted(values) if applies else [],
    )
    return values, event


def _told(message: str, kind: str = "experience", **data: Any) -> dict[str, Any]:
    return {"kind": kind, "severity": "info", "code": None, "message": message} | data


def _ignored(error: LuminaError, what: str) -> dict[str, Any]:
    return {
        "kind": "experience_ignored",
        "severity": "warning",
        "code": error.code,
        "message": f"{what}: {error.message}",
    }
