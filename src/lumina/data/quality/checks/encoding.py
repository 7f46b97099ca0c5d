"""Characters that a wrong encoding leaves behind."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from lumina.data.quality.check import Check, Item, Mended, Result
from lumina.data.readers.reader import Document
from lumina.data.records import Message

_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff]"
)
"""Controls that are no white space, marks of byte order, and what is no character."""

_REPLACED = "\ufffd"

# UTF-8 that was read as Latin-1 or Windows-1252: a letter from U+00C2 on, and what the
# next byte became.
_TWICE = re.compile("[ÂÃÐÑØÙ][\x80-\xbf]|â€[\x80-\u2122]|ï»¿")


class Encoding(Check):
    """Controls, U+FFFD, and UTF-8 that was decoded as something else."""

    name = "encoding"
    title = "characters that a wrong encoding leaves"
    rank = 3
    answers = ("encoding_correct",)
    mends_errors = True

    def see(self, item: Item) -> None:
        """Note a document with such characters."""
        self.seen += 1
        found = _found(item.text)
        if found:
            self.note(item, found)

    def result(self) -> Result:
        """The verdict."""
        message = (
            f"{self.count:,} texts have characters that a wrong encoding leaves"
            if self.count
            else "no text has characters that a wrong encoding leaves"
        )
        return self.made("failed" if self.count else "passed", message)

    def mend(self, document: Document) -> Mended | None:
        """Take out controls; what is lost behind U+FFFD cannot be brought back."""
        removed = 0

        def clean(text: str) -> str:
            nonlocal removed
            text, count = _CONTROL.subn("", text)
            removed += count
            return text

        changed = with_texts(document, clean)
        if not removed:
            return None
        return Mended(changed, f"{removed} control characters taken out")


def _found(text: str) -> str:
    if (match := _CONTROL.search(text)) is not None:
        return f"U+{ord(match[0]):04X} {_around(text, match.start())}"
    if (at := text.find(_REPLACED)) >= 0:
        return f"U+FFFD {_around(text, at)}"
    twice = _TWICE.findall(text)
    if len(twice) >= 2:
        return (
            f"UTF-8 decoded as another encoding: {_around(text, text.find(twice[0]))}"
        )
    return ""


def _around(text: str, at: int) -> str:
    return repr(text[max(0, at - 20) : at + 20])


def with_texts(document: Document, change: Callable[[str], str]) -> Document:
    """A document with every text of it changed."""
    if document.text is not None:
        return replace(document, text=change(document.text))
    messages: list[Message] = [
        {**message, "content": change(message["content"])}
        for message in document.messages or ()
    ]
    return replace(document, messages=tuple(messages))


CHECK = Encoding
