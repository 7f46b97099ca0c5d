"""What a rung declares: one way to do the same step with less memory."""

from __future__ import annotations

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

    The gradient of the step stays what it was, up to rounding: a rung changes how a
    step is carried out, through a control, and never which rows it learns from.

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


RUNGS = FoundByName[Rung]("lumina.train.memory_ladder.rungs")
"""Every rung whose file has been imported, by name."""

R = TypeVar("R", bound=type[Rung])


def register_rung(cls: R) -> R:
    """Enter a rung in the table: a decorator of a subclass of `Rung`."""
    RUNGS[cls.name] = cls()
    return cls


def rungs() -> list[Rung]:
    """All rungs in the order in which they are tried."""
    found = [rung for name in RUNGS.known() if (rung := RUNGS.found(name)) is not None]
    return sorted(found, key=lambda rung: rung.place)
