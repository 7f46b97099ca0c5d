"""The lists of words that text safety goes by: Lumina's own, or those of a file."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumina.errors import LuminaError

_OWN = Path(__file__).with_name("words.toml")
_PARTS = ("toxic", "unfavourable", "groups")


@dataclass(frozen=True)
class WordLists:
    """What is looked for.

    Attributes:
        toxic: phrases.
        unfavourable: phrases.
        groups: axis -> group -> the words that mention it.
        source: where they are from, for reports.
    """

    toxic: tuple[str, ...]
    unfavourable: tuple[str, ...]
    groups: Mapping[str, Mapping[str, tuple[str, ...]]]
    source: str


def read_words(path: str | os.PathLike[str] | None) -> WordLists:
    """The lists of a TOML file; a part that it does not have is Lumina's own.

    Args:
        path: with `toxic` and `unfavourable`, lists of phrases, and tables
            `groups.AXIS` of groups with their words; None: Lumina's own lists.

    Raises:
        LuminaError: E104 no such file, E103 not UTF-8, E101 not TOML, E102 another
            part, or not a list of phrases, E105 an empty list.
    """
    own = tomllib.loads(_OWN.read_text("utf-8"))
    if path is None:
        return _made(own, "the word lists of Lumina")
    name = os.fspath(path)
    try:
        given = tomllib.loads(Path(os.path.expanduser(name)).read_text("utf-8"))
    except FileNotFoundError:
        raise LuminaError("E104", f"{name}: no such file", "check the path") from None
    except OSError as error:
        raise LuminaError(
            "E106", f"{name}: {error.strerror}", "name a file that may be read"
        ) from error
    except UnicodeDecodeError:
        raise LuminaError("E103", f"{name}: not UTF-8", "convert it") from None
    except tomllib.TOMLDecodeError as error:
        raise LuminaError("E101", f"{name}: {error}", "write it as TOML") from None
    for part, value in given.items():
        _check(name, part, value)
    return _made(own | given, name)


def _check(name: str, part: str, value: Any) -> None:
    if part not in _PARTS:
        raise LuminaError(
            "E102", f"{name}: {part!r} is no part of it", f"write {', '.join(_PARTS)}"
        )
    lists = {part: value}
    if part == "groups":
        if not isinstance(value, dict) or not all(
            isinstance(axis, dict) and len(axis) > 1 for axis in value.values()
        ):
            raise LuminaError(
                "E102",
                f"{name}: groups is not a table of axes with two groups or more",
                "write [groups.AXIS] and under it GROUP = [WORD, ...]",
            )
        lists = {
            f"groups.{axis}.{group}": words
            for axis, found in value.items()
            for group, words in found.items()
        }
    for one, words in lists.items():
        if not isinstance(words, list) or not all(isinstance(w, str) for w in words):
            raise LuminaError(
                "E102", f"{name}: {one} is not a list of texts", 'write ["WORD", ...]'
            )
        if not any(word.strip() for word in words):
            raise LuminaError("E105", f"{name}: {one} has no words", "write some")


def _made(read: Mapping[str, Any], source: str) -> WordLists:
    groups = {
        axis: {group: tuple(words) for group, words in found.items()}
        for axis, found in read["groups"].items()
    }
    return WordLists(tuple(read["toxic"]), tuple(read["unfavourable"]), groups, source)


def pattern_of(phrases: Sequence[str]) -> re.Pattern[str]:
    """Finds one of some phrases: whole words, in any case, with any space between."""
    wholes = (
        r"\s+".join(re.escape(word) for word in phrase.split())
        for phrase in phrases
        if phrase.strip()
    )
    return re.compile(rf"(?i)(?<!\w)(?:{'|'.join(wholes)})(?!\w)")
