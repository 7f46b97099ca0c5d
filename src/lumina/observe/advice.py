"""What codes mean and what helps in common troubles, read from `advice.toml`."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lumina.errors import CODES, LuminaError

FILE = Path(__file__).with_name("advice.toml")


@dataclass(frozen=True)
class Explained:
    """A code or a topic, explained.

    Attributes:
        name: the code, or the topic's name on the command line.
        title: in a few words.
        means: in a sentence; "" for a topic.
        causes: what usually is behind a code, or how a topic shows itself.
        look: where to look; empty for a code.
        do: what helps, the first thing to try first.
        also: other names of a topic, in small letters.
    """

    name: str
    title: str
    means: str
    causes: tuple[str, ...]
    look: tuple[str, ...]
    do: tuple[str, ...]
    also: tuple[str, ...] = ()


@cache
def explained() -> dict[str, Explained]:
    """All of them by name, the codes first."""
    with open(FILE, "rb") as file:
        table = tomllib.load(file)
    codes = {
        name: Explained(
            name,
            CODES.get(name, ""),
            one["means"],
            tuple(one["causes"]),
            (),
            tuple(one["do"]),
        )
        for name, one in table["codes"].items()
    }
    topics = {
        name: Explained(
            name,
            one["title"],
            "",
            tuple(one["signs"]),
            tuple(one["look"]),
            tuple(one["do"]),
            tuple(one["also"]),
        )
        for name, one in table["topics"].items()
    }
    return codes | topics


def find_explained(name: str) -> Explained:
    """The entry of a code or a topic, by any of its names; capitals do not matter.

    Raises:
        LuminaError: E005, naming those there are.
    """
    if (found := names_explained().get(as_asked(name))) is not None:
        return found
    topics = [key for key in explained() if key not in CODES]
    raise LuminaError(
        "E005",
        f"there is nothing to explain by the name {name!r}",
        f"give a run, a code ({next(iter(CODES))}), or one of {', '.join(topics)}",
    )


@cache
def names_explained() -> dict[str, Explained]:
    """All of them by each of their names, in the form of `as_asked`."""
    return {
        as_asked(name): one
        for key, one in explained().items()
        for name in (key, *one.also)
    }


def as_asked(name: str) -> str:
    """A name in small letters, its words apart by single spaces."""
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def in_words(one: Explained) -> str:
    """An entry as `lumina explain` prints it."""
    heading = f"{one.name}: {one.title}"
    lists = {
        "usual causes" if one.means else "signs": one.causes,
        "where to look": one.look,
        "what to do": one.do,
    }
    blocks = [f"{heading}\n{one.means}".rstrip()]
    for title, lines in lists.items():
        if lines:
            blocks.append("\n".join([f"{title}:", *(f"- {line}" for line in lines)]))
    return "\n\n".join(blocks)
