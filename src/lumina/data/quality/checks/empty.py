"""Turns and texts with nothing in them."""

from __future__ import annotations

from lumina.data.quality.check import Check, Item, Mended, Result, contents
from lumina.data.readers.reader import Document
from lumina.data.skipping import Skipped


class Empty(Check):
    """Messages without words, and records with nothing in them."""

    name = "empty"
    title = "empty messages and records"
    rank = 4
    answers = ("no_empty_messages",)
    mends_errors = True

    def see(self, item: Item) -> None:
        """Note a document with an empty text or turn."""
        self.seen += 1
        if _is_empty(item.document):
            self.note(item, "a text or a turn is empty")

    def see_bad(self, record: Skipped) -> None:
        """Note a record that could not be used because nothing is in it."""
        if is_empty(record):
            self.note_at(record.source, record.line, record.reason)

    def result(self) -> Result:
        """The verdict."""
        message = (
            f"{self.count:,} documents have an empty text or turn"
            if self.count
            else "no text and no turn is empty"
        )
        return self.made("failed" if self.count else "passed", message)

    def mend(self, document: Document) -> Mended | None:
        """Leave such a document out."""
        if document.continues or not _is_empty(document):
            return None
        return Mended(None, "left out: a text or a turn is empty")


def is_empty(record: Skipped) -> bool:
    """Whether a record could not be used because it, or a turn of it, is empty."""
    return record.code == "E105" or " has an empty " in record.reason


def _is_empty(document: Document) -> bool:
    if document.messages is None:
        return not document.continues and not (document.text or "").strip()
    return not document.messages or any(
        not text.strip() and not message.get("tool_calls")
        for text, message in zip(contents(document), document.messages, strict=True)
    )


CHECK = Empty
