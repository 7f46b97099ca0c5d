"""Documents that are almost the same, by MinHash (Broder, 1997)."""

from __future__ import annotations

from typing import Any

import numpy as np

from lumina.data.libraries import needed
from lumina.data.quality.check import Check, Item, Options, Result
from lumina.data.quality.words import numbers_of, phrases, words_of

SHINGLE = 5
"""Words in a row that are compared."""

PERMUTATIONS = 64

_TOGETHER = 4096
_FACTORS = np.random.default_rng(7).integers(
    0, 2**63, PERMUTATIONS, dtype=np.uint64
) * np.uint64(2) + np.uint64(1)
"""Odd numbers: the upper half of a product with one is a hash (Dietzfelbinger et al.,
1997)."""


class NearDuplicates(Check):
    """Documents of which most phrases of five words are the same."""

    name = "near_duplicates"
    title = "near duplicates"
    rank = 10

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.left_out = 0
        self.places: dict[str, tuple[str, int]] = {}
        self._library: Any = None
        self._index: Any = None

    def see(self, item: Item) -> None:
        """Look for documents that are almost this one, and remember it."""
        words = words_of(item.text)
        if len(words) < 2 * SHINGLE:
            return
        if self.seen >= self.options.near_documents:
            self.left_out += 1
            return
        self.seen += 1
        if self._index is None:
            self._library = needed("datasketch")
            self._index = self._library.MinHashLSH(
                threshold=self.options.similarity, num_perm=PERMUTATIONS
            )
        sketch = self._sketch(words)
        similar = sorted(self._index.query(sketch), key=int)
        if similar:
            source, line = self.places[similar[0]]
            self.note(item, f"like {source}, line {line}: {item.text}")
        key = str(self.seen)
        self._index.insert(key, sketch, check_duplication=False)
        self.places[key] = (item.document.source, item.document.line)

    def _sketch(self, words: list[str]) -> Any:
        """The least value of all phrases under each of the hash functions."""
        found = np.unique(phrases(numbers_of(words), SHINGLE))
        least = np.full(PERMUTATIONS, np.iinfo(np.uint64).max, dtype=np.uint64)
        for start in range(0, len(found), _TOGETHER):
            part = found[start : start + _TOGETHER, None] * _FACTORS
            least = np.minimum(least, (part >> np.uint64(32)).min(0))
        return self._library.MinHash(
            num_perm=PERMUTATIONS, hashvalues=least, scheme="legacy"
        )

    def result(self) -> Result:
        """The verdict, and how many documents were not compared."""
        if not self.seen:
            return self.not_assessed(f"no text has {2 * SHINGLE} words")
        share = f"{self.options.similarity:.0%}"
        message = (
            f"{self.count:,} of {self.seen:,} texts share about {share} of their "
            "phrases with an earlier one"
            if self.count
            else f"no two of {self.seen:,} texts share about {share} of their phrases"
        )
        if self.left_out:
            message += f"; {self.left_out:,} further ones were not compared"
        numbers = {"not compared": float(self.left_out)}
        return self.made("found" if self.count else "passed", message, numbers=numbers)


CHECK = NearDuplicates
