"""What a rung declares: one way to do the same step with less memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from lumina.found_by_name import FoundByName
from lumina.plan.plan import Plan


@dataclass(frozen=True)
class Attempt:
    """What is done before a step is taken again.

    Attributes:
        rung: the name of the rung.
        text: what is done, as the end of a sentence.
        control: the control that is set; empty where only the cache is emptied.
        value: what it is set to.
    """

    rung: str
    text: str
    control: str = ""
    value: Any = None


class Rung:
    """One way to do the same step with less memory. A subclass declares one.

    A rung changes how a step is carried out, through a control, and never which rows it
    learns from. What changes in the numbers all the same is said (`numbers`).

    Attributes:
        name: of the rung, and of its file.
        place: rungs are tried in this order, the lowest first.
        control: the control that it sets; empty for one that sets none.
    """

    name: ClassVar[str]
    place: ClassVar[int]
    control: ClassVar[str] = ""

    def next(self, plan: Plan, cleared: bool) -> Attempt | None:
        """What this rung can still do to a run of this Plan; None: nothing.

        Args:
            plan: what the step that failed was laid out by.
            cleared: the cache was emptied a short while ago, and it was not enough.
        """
        raise NotImplementedError

    def known_to_fit(self, plan: Plan, value: Any) -> Any:
        """What a Plan should have, where an earlier run needed `value`.

        Args:
            plan: of the run that begins.
            value: of the rung's control, as the earlier run had it in the end.

        Returns:
            A value of the control; None where the Plan needs no more memory as it is.
        """
        return None

    def numbers(self, plan: Plan) -> str:
        """What is different in the numbers of a run from this rung on, in words.

        Args:
            plan: of the run before the rung.

        Returns:
            The end of a sentence; empty where all numbers stay to the bit.
        """
        return ""


ROUNDING = "sums are added in another order, which changes their rounding"

RUNGS = FoundByName[Rung]("lumina.train.memory_ladder.rungs")
"""Every rung whose file has been imported, by name."""

R = TypeVar("R", bound=type[Rung])


def register_rung(cls: R) -> R:
    """Enter a rung in the table: a decorator of a subclass of `Rung`."""
    RUNGS[cls.name] = cls()
    return cls


def numbers_after(plan: Plan, names: Iterable[str]) -> str:
    """What some rungs change in the numbers of a run, in words; empty: nothing.

    Args:
        plan: of the run before them.
        names: of the rungs.
    """
    found = (RUNGS.found(name) for name in names)
    told = [rung.numbers(plan) for rung in found if rung is not None]
    return "; ".join(dict.fromkeys(text for text in told if text))


def rungs() -> list[Rung]:
    """All rungs in the order in which they are tried."""
    found = [rung for name in RUNGS.known() if (rung := RUNGS.found(name)) is not None]
    return sorted(found, key=lambda rung: rung.place)
