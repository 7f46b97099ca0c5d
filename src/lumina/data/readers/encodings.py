"""Encodings of files that are not UTF-8: which file is read in which one."""

from __future__ import annotations

import codecs
import fnmatch
import warnings
from collections.abc import Sequence

from lumina.errors import LuminaError

UTF_8 = "utf-8"
"""What files are read as where nothing else is stated."""

_SAMPLE = bytes(range(1, 128)) + rb"\u0041\n+AEE-~{aa}"
"""Bytes that mean the same in every encoding of which lines end as those of ASCII."""

Encodings = tuple[tuple[str, str], ...]
"""(pattern of names, encoding): the first pattern that fits a file decides."""


def parsed(given: Sequence[str]) -> Encodings:
    """The encodings that `--encoding` states.

    Args:
        given: each a name, for all files, or PATTERN=NAME.

    Raises:
        LuminaError: E005 for a name of no encoding or of one that cannot be read in
            lines, and where two names are given for all files.
    """
    found: list[tuple[str, str]] = []
    rest: list[tuple[str, str]] = []
    for text in given:
        pattern, divided, name = text.rpartition("=")
        if divided and not pattern:
            raise LuminaError(
                "E005",
                f"--encoding {text} has no pattern of names before the =",
                "write NAME, or PATTERN=NAME such as '*-Latin1=latin-1'",
            )
        (found if divided else rest).append((pattern or "*", _known(name)))
    if len(rest) > 1:
        raise LuminaError(
            "E005",
            f"--encoding names {len(rest)} encodings for all files",
            "name one, and others for some files as PATTERN=NAME",
        )
    return (*found, *rest)


def encoding_of(encodings: Encodings, name: str) -> str:
    """The encoding of a file or of a member of an archive.

    Args:
        encodings: what was stated.
        name: its path or name. A pattern fits all of it, or its end behind a "/".
    """
    for pattern, encoding in encodings:
        if fits(pattern, name):
            return encoding
    return UTF_8


def fits(pattern: str, name: str) -> bool:
    """Whether a pattern fits a name, or the end of one behind a "/"."""
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(
        name, f"*/{pattern}"
    )


def _known(name: str) -> str:
    """The usual name of an encoding that can be read in lines."""
    try:
        found = codecs.lookup(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that are no text
            same = _SAMPLE.decode(name) == _SAMPLE.decode("ascii")
    except (LookupError, ValueError):  # no such encoding; or no encoding of text
        same = False
    if not same:
        raise LuminaError(
            "E005",
            f"--encoding: {name!r} is no encoding of text of which ASCII is a part",
            "name one such as latin-1, cp1252, cp1251, koi8-r, gb18030, shift_jis or "
            "euc-kr; convert UTF-16 and UTF-32 to UTF-8 first",
        )
    return found.name
