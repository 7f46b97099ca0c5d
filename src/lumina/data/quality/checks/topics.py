"""How many topics there are would need a model; how many words there are does not."""

from __future__ import annotations

from lumina.data.quality.check import Check, Item, Options, Result
from lumina.data.quality.words import words_of

MOST_WORDS = 2_000_000
"""No more different words are remembered."""


class Topics(Check):
    """Topics are not assessed; different words are counted."""

    name = "topics"
    title = "diversity of topics"
    rank = 20
    answers = ("diverse_topics",)
    statistic = True

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.words = 0
        self.different: set[int] = set()

    def see(self, item: Item) -> None:
        """Count words."""
        self.seen += 1
        words = words_of(item.text)
        self.words += len(words)
        if len(self.different) < MOST_WORDS:
            self.different.update(map(hash, words))

    def result(self) -> Result:
        """Topics are not assessed; the figures are about words."""
        made = self.not_assessed(
            "topics would need a model; different words are counted"
        )
        made.of = self.seen
        made.numbers = {
            "words": float(self.words),
            "different words": float(len(self.different)),
        }
        return made


CHECK = Topics
