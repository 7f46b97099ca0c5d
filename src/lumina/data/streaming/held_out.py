"""Which documents of streamed text are held out: a function of their content alone.

Nothing counts the documents before a streamed run begins, so a share of all contents is
held out instead of a share of the documents. A document is on the same side wherever
reading begins and however often it occurs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lumina.data.documents import Document
from lumina.data.split import content_parts
from lumina.data.streaming.places import Placed

FRACTION = 0.05
"""The share held out where none is asked for, as of a store of many documents."""


def content_hash(document: Document) -> int:
    """64 bits that tell a document by its content; a long text by its first piece."""
    digest = hashlib.blake2b(digest_size=8)
    for part in content_parts(document):
        digest.update(part)
    return int.from_bytes(digest.digest(), "little")


@dataclass(frozen=True)
class Sides:
    """Divides documents by their content.

    Attributes:
        fraction: the share of contents held out.
        kept: the hash of a content that is never held out, so that data of a single
            document is learned from; None: there is none.
    """

    fraction: float
    kept: int | None = None

    def holds_out(self, document: Document) -> bool:
        """Whether a document is held out; it is given from its start."""
        if not self.fraction:
            return False
        content = content_hash(document)
        return content != self.kept and content < self.fraction * 2**64

    def of(self, documents: Iterable[Placed]) -> Iterator[tuple[bool, Placed]]:
        """(held out, document) of every document; the first may go on with another.

        What is read from the middle of a document on belongs to one that is not held
        out: a run goes on only with what it learns from.
        """
        held_out = False
        for placed in documents:
            if not placed.document.continues:
                held_out = self.holds_out(placed.document)
            yield held_out, placed
