"""Overlap with evaluation sets: what a model is to be tested on, it must not read.

GPT-3 (Brown et al., 2020, appendix C) compared 13 words in a row, in lower case and
without punctuation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lumina.data.documents import read_documents
from lumina.data.quality.check import Check, Item, Options, Result
from lumina.data.quality.words import numbers_of, phrases, words_of
from lumina.data.readers.reader import Document


class Overlap(Check):
    """Texts with as many words in a row as in an evaluation set."""

    name = "overlap"
    title = "overlap with evaluation sets"
    rank = 11

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.tests = 0
        found = [np.zeros(0, dtype=np.uint64)]
        for document in _documents(options.eval_data):
            self.tests += 1
            numbers = numbers_of(words_of(document.text or ""))
            found.append(phrases(numbers, options.ngram))
        self.known = np.unique(np.concatenate(found))

    def see(self, item: Item) -> None:
        """Note a text that overlaps."""
        if not len(self.known):
            return
        self.seen += 1
        words, n = words_of(item.text), self.options.ngram
        shared = np.isin(phrases(numbers_of(words), n), self.known)
        if shared.any():
            at = int(shared.argmax())
            self.note(item, " ".join(words[at : at + n]))

    def result(self) -> Result:
        """The verdict."""
        if not self.options.eval_data:
            return self.not_assessed("no --eval-data is named")
        n = self.options.ngram
        message = (
            f"{self.count:,} of {self.seen:,} texts have {n} words in a row of an "
            "evaluation set"
            if self.count
            else f"no text has {n} words in a row of an evaluation set"
        )
        numbers = {
            "documents of the evaluation sets": float(self.tests),
            "phrases of the evaluation sets": float(len(self.known)),
        }
        return self.made("found" if self.count else "passed", message, numbers=numbers)


def _documents(paths: Sequence[str]) -> Iterator[Document]:
    """The records of evaluation sets: whatever their fields are, all of their texts."""
    if not paths:
        return iter(())
    return read_documents(paths, read_record=lambda record: "\n".join(_texts(record)))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


CHECK = Overlap
