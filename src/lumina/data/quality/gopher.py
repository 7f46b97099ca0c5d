"""What the checks by the rules of Gopher (Rae et al., 2021, A.1.1) share."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter

from lumina.data.quality.check import Check, Item, Options, Result

LEAST_WORDS = 50
"""Shorter texts are not judged: Gopher leaves them out."""


class GopherRules(Check):
    """Counts the texts that break a rule, by the rule."""

    some: str
    """What is said of the texts that break one, behind "N of M texts"."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.rules: Counter[str] = Counter()

    @abstractmethod
    def broken(self, text: str, words: list[str]) -> str | None:
        """The first rule that a text breaks, as RULE: FIGURE; None: it breaks none."""

    @abstractmethod
    def none(self, texts: str) -> str:
        """What is said where no text breaks one; `texts` are those that were seen."""

    def shown(self, item: Item, broken: str) -> str:
        """What is shown of a text that breaks a rule."""
        return broken

    def see(self, item: Item) -> None:
        """Note a text that breaks a rule."""
        words = item.text.split()
        if len(words) < LEAST_WORDS:
            return
        self.seen += 1
        broken = self.broken(item.text, words)
        if broken is not None:
            self.rules[broken.partition(":")[0]] += 1
            self.note(item, self.shown(item, broken))

    def result(self) -> Result:
        """The verdict, with the number for each rule."""
        if not self.seen:
            return self.not_assessed(f"no text has {LEAST_WORDS} words")
        texts = f"{self.seen:,} texts of {LEAST_WORDS} words and more"
        message = (
            f"{self.count:,} of {texts} {self.some}" if self.count else self.none(texts)
        )
        numbers = {rule: float(n) for rule, n in self.rules.items()}
        return self.made("found" if self.count else "passed", message, numbers=numbers)
