"""Documents that are there twice, to the letter."""

from __future__ import annotations

import hashlib

from lumina.data.quality.check import Check, Item, Mended, Options, Result
from lumina.data.readers.reader import Document
from lumina.data.split import content_parts


class Duplicates(Check):
    """Exact copies; each document is remembered by 16 bytes of a hash."""

    name = "duplicates"
    title = "exact duplicates"
    rank = 9
    mends_errors = True

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.known: set[bytes] = set()
        self.mended: set[bytes] = set()

    def see(self, item: Item) -> None:
        """Note a document that was seen before."""
        self.seen += 1
        name = _name(item.document)
        if name in self.known:
            self.note(item, item.text)
        self.known.add(name)

    def result(self) -> Result:
        """The verdict."""
        message = (
            f"{self.count:,} of {self.seen:,} texts are copies of earlier ones"
            if self.count
            else f"none of {self.seen:,} texts is a copy of another"
        )
        return self.made("found" if self.count else "passed", message)

    def mend(self, document: Document) -> Mended | None:
        """Leave all but the first out. A piece of a long text is no document."""
        if document.continues:
            return None
        name = _name(document)
        if name in self.mended:
            return Mended(None, "left out: a copy of an earlier document")
        self.mended.add(name)
        return None


def _name(document: Document) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in content_parts(document):
        digest.update(part)
    return digest.digest()


CHECK = Duplicates
