"""The table of checks before a run: each is a file of `checks`, named like it.

`lumina train`, `lumina train --dry-run` and `lumina plan` make the same ones at the
same stages, so that a plan is refused where the run would be, in the same words. A
check reads; it writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lumina.config import Config
from lumina.found_by_name import FoundByName

if TYPE_CHECKING:
    from lumina.assemble.ranks import Ranks
    from lumina.train.preparation import Preparation

Stage = Literal["asked", "settings", "decided"]
"""When a check is made.

"asked": before anything is read. "settings": the settings are known, and those of a run
to go on with. "decided": the data, the weights and the Plan are known.
"""


@dataclass(frozen=True)
class Beginning:
    """A run that is about to begin or to go on, or the plan of one.

    Attributes:
        config: what is asked for; from the stage "settings" on, of the whole run.
        ranks: this process's place.
        planning: nothing is begun: the processes and the supervisor that are asked for
            are those that the command would start.
        prepared: what is known of the run; None at the stage "asked".
    """

    config: Config
    ranks: Ranks
    planning: bool = False
    prepared: Preparation | None = None


Check = Callable[[Beginning], None]


@dataclass(frozen=True)
class Declared:
    """A registered check.

    Attributes:
        refuse: raises a LuminaError where something stands in the way.
        stage: when it is made.
        here: it looks at this machine, and says nothing about a plan for another one.
    """

    refuse: Check
    stage: Stage
    here: bool


CHECKS = FoundByName[Declared]("lumina.train.start_checks.checks")
"""Every check whose file has been imported, by name."""


def register_check(
    name: str, stage: Stage, *, here: bool = False
) -> Callable[[Check], Check]:
    """A decorator that makes a function one of the checks before a run.

    It is called on every rank.

    Args:
        name: of the check, and of its file.
        stage: when it is made.
        here: it looks at this machine, and is left out of a plan for another one.

    Raises:
        LuminaError: E005 for the name of a check of Lumina's own.
    """

    def decorate(function: Check) -> Check:
        CHECKS.refuse_taken(name, function.__module__, "a check")
        CHECKS[name] = Declared(function, stage, here)
        return function

    return decorate


def check(stage: Stage, beginning: Beginning, *, here: bool = True) -> None:
    """Make all checks of a stage, in the order of their names.

    Args:
        stage: that has been reached.
        beginning: what is known there.
        here: it is this machine that trains.

    Raises:
        LuminaError: of the first check that refuses.
    """
    for name in CHECKS.known():
        found = CHECKS.found(name)
        assert found is not None
        if found.stage == stage and (here or not found.here):
            found.refuse(beginning)
