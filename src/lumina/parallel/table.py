"""The table of ways of being parallel, by the name that `--parallel` takes.

Lumina's own are the files in `lumina.parallel.ways`; a plug-in adds its own with
`register_parallel`. No module here imports torch: the planner reads the table.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from lumina.errors import LuminaError
from lumina.features import Feature, Trial, register
from lumina.parallel.way import Way
from lumina.similar_names import did_you_mean

AUTO = "auto"
"""The value of `--parallel` that leaves the choice to the planner."""

STAGES = "zero"
"""The value that leaves it to the planner which stage of ZeRO is used."""

C = TypeVar("C", bound=type[Way])

_WAYS: dict[str, type[Way]] = {}


def register_parallel(name: str) -> Callable[[C], C]:
    """A decorator that makes a class, a `Way`, the meaning of `--parallel NAME`.

    Raises:
        LuminaError: E005 for a name that is taken or is none, or another class.
    """

    def decorate(cls: C) -> C:
        if not isinstance(cls, type) or not issubclass(cls, Way):
            raise LuminaError(
                "E005",
                f"@register_parallel({name!r}) stands over {cls!r}",
                "put it over a class that derives from lumina.parallel.way.Way",
            )
        if not name.isidentifier() or name in (AUTO, STAGES):
            raise LuminaError(
                "E005",
                f"a way of being parallel cannot be called {name!r}",
                f"use letters, digits and _, and neither {AUTO} nor {STAGES}",
            )
        taken = _WAYS.get(name)
        if taken is not None and _source(taken) != _source(cls):
            raise LuminaError(
                "E005",
                f"{name!r} already names the way of being parallel of {_source(taken)}",
                "choose another name",
            )
        cls.name = name
        if cls.several and taken is None:
            register(_feature(cls))
        _WAYS[name] = cls
        return cls

    return decorate


def known_ways() -> tuple[str, ...]:
    """The names that `chosen_way` finds."""
    return tuple(sorted(_WAYS))


def chosen_way(name: str) -> type[Way]:
    """The way of being parallel that an option names.

    Raises:
        LuminaError: E005, with those that there are.
    """
    if name in _WAYS:
        return _WAYS[name]
    known = (AUTO, *known_ways(), STAGES)
    meant = did_you_mean(name, known)
    raise LuminaError(
        "E005",
        f"parallel {name}: there is no such way to share the work",
        f"{meant}there are {', '.join(known)}; another one is a class under "
        f"@lumina.register_parallel({name!r}) in a file named with --plugins",
    )


def alone() -> type[Way]:
    """The way of a single process."""
    return next(way for way in _WAYS.values() if not way.several)


def preferred_ways() -> tuple[type[Way], ...]:
    """What `auto` tries for several processes, in order."""
    tried = [way for way in _WAYS.values() if way.preference is not None]
    return tuple(sorted(tried, key=lambda way: (way.preference, way.name)))


def tried_ways(asked: str) -> tuple[type[Way], ...]:
    """What a value of `--parallel` lets several processes try, in order.

    Raises:
        LuminaError: E005 for a name that there is not.
    """
    if asked == AUTO:
        return preferred_ways()
    if asked == STAGES:
        stages = [(way.stage, way) for way in _WAYS.values() if way.stage is not None]
        return tuple(way for _, way in sorted(stages, key=lambda one: one[0]))
    return (chosen_way(asked),)


def _source(cls: type) -> str:
    """The file a class stands in."""
    return str(Path(inspect.getfile(cls)).resolve())


def _feature(way: type[Way]) -> Feature:
    """The entry of a way in the table of features, which `lumina features` shows."""
    name = way.name
    open_to_it = (AUTO, name) if way.stage is None else (AUTO, STAGES, name)
    return Feature(
        name=name,
        option="parallel",
        summary=way.summary,
        without=f"--parallel {AUTO}",
        change_cost="restart",
        requested=lambda config: config.system.parallel == name,
        refused=lambda config: config.system.parallel not in open_to_it,
        active=lambda plan: plan.parallel == name,
        fallback=lambda plan, machine: plan.replace(
            parallel=next((w.name for w in preferred_ways() if w != way), name)
        ),
        trial=Trial(
            {"parallel": name, "batch_size": 2},
            keeps=way.synchronised,
            ranks=2,
            figures=("ranks",),
            redraws=True,
        ),
    )
