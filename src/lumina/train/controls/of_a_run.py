"""What a control asks of the run that trains a program."""

from __future__ import annotations

from typing import TypeVar

from lumina.errors import LuminaError

T = TypeVar("T")


def of_a_run(does_it: T | None, to_do: str) -> T:
    """What the run does when it is asked.

    Args:
        does_it: of the program; None where no run trains it.
        to_do: what there is nothing for without a run, such as "to save".

    Raises:
        LuminaError: E002 where no run trains the program.
    """
    if does_it is None:
        raise LuminaError(
            "E002",
            f"no run trains this program, so there is nothing {to_do}",
            "ask for it while a run is under way",
        )
    return does_it
