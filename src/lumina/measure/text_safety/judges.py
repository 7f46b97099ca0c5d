"""Judges of texts that take the place of word lists: a plug-in registers its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from lumina.errors import LuminaError

Pair = tuple[str, str]
"""What a model was given, and what it wrote."""

Kind = Literal["toxic", "unfavourable", "unsupported"]

JudgeFunction = Callable[[Sequence[Pair]], Sequence[bool | None]]
"""For each pair whether its text is so; None: that cannot be said of it."""

KINDS: dict[str, str] = {
    "toxic": "whether a text is toxic",
    "unfavourable": "whether a sentence speaks unfavourably of those that it mentions",
    "unsupported": "whether a text states what is not so, as far as the judge knows",
}
"""What can be judged."""


@dataclass(frozen=True)
class Judge:
    """A judge that was registered.

    Attributes:
        name: of its function, for reports.
        function: judges pairs.
    """

    name: str
    function: JudgeFunction


JUDGES: dict[str, Judge] = {}
"""Kind -> the judge that takes the place of the words; filled by plug-ins."""


def register_text_judge(kind: Kind) -> Callable[[JudgeFunction], JudgeFunction]:
    """Enter a judge of texts: a decorator of a function of pairs.

    It is used wherever a figure of text safety is measured, in place of the word list,
    in every run that names its file with `--plugins`.

    Args:
        kind: what it judges, one of `KINDS`.

    Raises:
        LuminaError: E005 for another kind, and for a second judge of one.
    """
    if kind not in KINDS:
        raise LuminaError(
            "E005", f"nothing judges {kind!r}", f"the kinds are {', '.join(KINDS)}"
        )

    def entered(function: JudgeFunction) -> JudgeFunction:
        name = getattr(function, "__qualname__", type(function).__name__)
        held = JUDGES.get(kind)
        if held is not None and held.name != name:
            raise LuminaError(
                "E005",
                f"{held.name} already judges {kind!r}, and {name} would, too",
                "name the file of only one of them with --plugins",
            )
        JUDGES[kind] = Judge(name, function)
        return function

    return entered


def judged(kind: Kind, pairs: Sequence[Pair]) -> Sequence[bool | None]:
    """What the judge of a kind says.

    Raises:
        LuminaError: E005 where it gives another number of answers.
    """
    judge = JUDGES[kind]
    found = judge.function(pairs) if pairs else []
    if len(found) != len(pairs):
        raise LuminaError(
            "E005",
            f"the judge {judge.name} gave {len(found)} answers for {len(pairs)} texts",
            "let it give one for each, None where it cannot say",
        )
    return [None if one is None else bool(one) for one in found]
