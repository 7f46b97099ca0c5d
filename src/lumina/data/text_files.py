"""The files of text that a configuration names, read as documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from lumina.data.documents import Document, read_documents
from lumina.data.reading_options import reading_options
from lumina.data.sources.entry import Source
from lumina.data.sources.find import find_sources
from lumina.data.split import (
    Progress,
    Scan,
    Split,
    choose_split,
    document_bytes,
    scan,
    split_documents,
)

if TYPE_CHECKING:
    from lumina.config import Config

# Raised when the same files are read as other documents than before: what an earlier
# reading left in the cache is not used then.
_READING = 7


class TextFiles:
    """The files to learn from and those held out; each pass over them is made once.

    Attributes:
        files: those to learn from.
        eval_files: those held out; none where a share of the documents is.

    Args:
        config: its `data` section is read.
        on_progress: called with (stage, done, total); amounts are bytes.

    Raises:
        LuminaError: E104 to E106 for paths.
    """

    def __init__(self, config: Config, on_progress: Progress | None = None) -> None:
        self.data = config.data
        self.on_progress = on_progress
        self.files = find_sources(self.data.train_data)
        self.eval_files = (
            find_sources(self.data.eval_data) if self.data.eval_data else []
        )
        self.how = reading_options(self.data)
        self.how.check([*self.files, *self.eval_files])

    @cached_property
    def sources(self) -> list[Any]:
        """What the data is: content of the files, and how they are read."""
        sides = (self.files, self.eval_files)
        hashes = [[file.kind.identity(file) for file in files] for files in sides]
        parts: list[Any] = [self.data.max_record_bytes, self.data.eval_fraction]
        if self.data.eval_split != "hash":
            parts.append(self.data.eval_split)
        parts += self.how.parts([*self.files, *self.eval_files])
        return [_READING, *hashes, *parts]

    @cached_property
    def scanned(self) -> Scan:
        """A first pass over the files to learn from."""
        return self._scan(self.files)

    @cached_property
    def scanned_eval(self) -> Scan | None:
        """A first pass over the held-out files, if any are named."""
        return self._scan(self.eval_files) if self.eval_files else None

    @cached_property
    def split(self) -> Split:
        """Which documents of the files to learn from are held out."""
        return choose_split(
            self.scanned,
            0.0 if self.eval_files else self.data.eval_fraction,
            stratified=self.data.eval_split == "stratified",
        )

    def _scan(self, files: Sequence[Source]) -> Scan:
        return scan(
            files,
            errors=self.data.data_errors,
            on_progress=self.on_progress,
            **self.how.given(),
        )

    def scan_all(self) -> list[Scan]:
        """The first passes over all files."""
        scans = [self.scanned, self.scanned_eval]
        return [found for found in scans if found is not None]

    def held_out(self) -> Iterator[Document]:
        """The documents of the held-out files, if any are named."""
        return self._read(self.eval_files) if self.eval_files else iter(())

    def _read(self, files: Sequence[Source]) -> Iterator[Document]:
        return read_documents(files, errors=self.data.data_errors, **self.how.given())

    def sides(self) -> Iterator[tuple[bool, Document]]:
        """(held out, document) of each document of the files to learn from."""
        return split_documents(self._read(self.files), self.split)

    def sample(self, most: int) -> Iterator[str]:
        """Text to train a tokenizer on: never held out, spread over all of the data.

        Args:
            most: bytes of it, about.
        """
        total = self.scanned.bytes
        share = min(1.0, most / max(total, 1))
        seen = taken = 0
        for held_out, document in self.sides():
            size = document_bytes(document)
            wanted = not held_out and taken <= share * seen
            seen += size
            if wanted:
                taken += size
                if document.text is not None:
                    yield document.text
                for message in document.messages or ():
                    yield message["content"]
            if self.on_progress is not None:
                self.on_progress("tokenizer", seen, total)

    def trained_on(self) -> int:
        """How many documents of the eval data stand in the training data, too."""
        held_out = self.scanned_eval
        if held_out is None:
            # Of documents that are all the same, some are held out all the same.
            hashes, chosen = self.scanned.hashes, self.split.held_out
            return int(np.isin(hashes[chosen], hashes[~chosen]).sum())
        return int(np.isin(held_out.hashes, self.scanned.hashes).sum())
