"""Bounds on how many conversations of a file, and of all files, are taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lumina.data.readers.reader import Document

OnBeyond = Callable[[str], None]
"""Called with the bound that left a conversation out: "file" or "dataset"."""


@dataclass
class ConversationLimits:
    """Lets the first conversations through; texts are not counted.

    Attributes:
        per_file: of one file, or of one member of an archive; None: all.
        per_dataset: of all files that are read together; None: all.
        on_beyond: is called for every conversation that is left out.
        taken: conversations of all files so far.
    """

    per_file: int | None = None
    per_dataset: int | None = None
    on_beyond: OnBeyond | None = None
    taken: int = 0

    def of_file(self, documents: Iterator[Document]) -> Iterator[Document]:
        """The documents of one file that the bounds let through, in their order."""
        if self.per_file is None and self.per_dataset is None:
            yield from documents
            return
        here = 0
        for document in documents:
            if document.messages is None:
                yield document
                continue
            beyond = ""
            if self.per_file is not None and here >= self.per_file:
                beyond = "file"
            elif self.per_dataset is not None and self.taken >= self.per_dataset:
                beyond = "dataset"
            if not beyond:
                here += 1
                self.taken += 1
                yield document
            elif self.on_beyond is not None:
                self.on_beyond(beyond)
