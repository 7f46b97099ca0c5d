"""The table of learning-rate schedules: what is known of each, without torch.

A schedule is a function under a decorator::

    @register_schedule("square", words="down to the floor as a parabola")
    def rate(place: Place) -> float:
        return falling(place, lambda share: share * share)

Lumina's own stand in `lumina.plan.schedules`, one file each. A file is imported when
its name is first looked up. Others stand in a file that `--plugins` names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lumina.found_by_name import FoundByName
from lumina.optim.declared import Option

TENTH = 0.1
"""The final rate where `min_lr` is not set, as a share of the peak."""


@dataclass(frozen=True)
class Place:
    """A step of a run, and what the schedule is made from.

    Attributes:
        done: completed steps, from 0; the rate is that of the step that follows.
        steps: length of the schedule.
        warmup_steps: steps of warm-up.
        decay_steps: steps of the final decay, of a schedule that is `stable`.
        peak: the largest rate.
        floor: the final rate, at most the peak.
        options: value of each option that the schedule declared.
    """

    done: int
    steps: int
    warmup_steps: int
    decay_steps: int
    peak: float
    floor: float
    options: Mapping[str, Any]


Rate = Callable[[Place], float]


@dataclass(frozen=True, eq=False)
class Schedule:
    """A registered schedule.

    Attributes:
        name: what `--lr-scheduler` calls it.
        rate: the learning rate of a step: a pure function.
        words: what it does, for the plan.
        options: the options that it has, by name.
        falls: whether the rate falls at all; where it does not, `min_lr` has no effect.
        stable: whether it stays at the peak until its last `decay_steps`.
        warmup_ratio: share of the run that is warm-up where none was set; None: by the
            length of the run.
        floor: the final rate where `min_lr` is not set, as a share of the peak.
    """

    name: str
    rate: Rate
    words: str
    options: Mapping[str, Option] = field(default_factory=dict)
    falls: bool = True
    stable: bool = False
    warmup_ratio: float | None = None
    floor: float = TENTH


SCHEDULES = FoundByName[Schedule]("lumina.plan.schedules")
"""Every schedule whose file has been imported, by name."""


def register_schedule(
    name: str,
    *,
    words: str,
    options: Mapping[str, Option] | None = None,
    falls: bool = True,
    stable: bool = False,
    warmup_ratio: float | None = None,
    floor: float = TENTH,
) -> Callable[[Rate], Rate]:
    """A decorator that enters a function into `SCHEDULES`; arguments as of `Schedule`.

    Raises:
        LuminaError: E005 for the name of one of Lumina's own schedules.
    """

    def decorate(rate: Rate) -> Rate:
        SCHEDULES.refuse_taken(name, rate.__module__, "a schedule")
        SCHEDULES[name] = Schedule(
            name, rate, words, dict(options or {}), falls, stable, warmup_ratio, floor
        )
        return rate

    return decorate


def chosen_schedule(name: str) -> Schedule:
    """The schedule of a name.

    Raises:
        LuminaError: E005, with those that there are.
    """
    return SCHEDULES.chosen(
        name,
        f"lr_scheduler {name}: there is no such schedule",
        f"another one is a function under @lumina.register_schedule({name!r}, ...) in "
        "a file that --plugins names",
    )


def falling(
    place: Place,
    shape: Callable[[float], float] = lambda share: share,
    *,
    last: int | None = None,
) -> float:
    """The rate on a way from the peak to the floor, after a linear warm-up.

    The last step of the run is at the floor, whatever the length.

    Args:
        place: the step.
        shape: share of the decay that has passed, 0 to 1 -> share of the way from the
            peak to the floor, 0 to 1.
        last: steps at the end of the run in which the rate falls; None: all those after
            the warm-up.
    """
    if place.done < place.warmup_steps:
        return place.peak * (place.done + 1) / place.warmup_steps
    start = place.warmup_steps if last is None else place.steps - last
    length = place.steps - start
    share = min(max((place.done + 1 - start) / max(length, 1), 0.0), 1.0)
    return place.peak + (place.floor - place.peak) * shape(share)
