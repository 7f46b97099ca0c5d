"""Texts with words of a list that the user gives."""

from __future__ import annotations

from collections import Counter

from lumina.data.quality.check import Check, Item, Mended, Options, Result, contents
from lumina.data.quality.words import words_of
from lumina.data.readers.reader import Document


class WordLists(Check):
    """Words and phrases of lists; a list is what was asked for, and no judgement."""

    name = "word_lists"
    title = "words of given lists"
    rank = 15
    answers = ("no_toxic_content",)

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.lists: Counter[str] = Counter()
        self.entries = {
            name: {tuple(words_of(entry)) for entry in entries} - {()}
            for name, entries in options.word_lists.items()
        }

    def see(self, item: Item) -> None:
        """Note a text with a word of a list."""
        if not self.entries:
            return
        self.seen += 1
        found = self._find(item.text)
        if found is not None:
            name, entry = found
            self.lists[name] += 1
            self.note(item, f"{name}: {entry}")

    def _find(self, text: str) -> tuple[str, str] | None:
        words = words_of(text)
        for name, entries in self.entries.items():
            for length in {len(entry) for entry in entries}:
                for at in range(len(words) - length + 1):
                    if (entry := tuple(words[at : at + length])) in entries:
                        return name, " ".join(entry)
        return None

    def result(self) -> Result:
        """The verdict, with the number for each list."""
        if not self.entries:
            return self.not_assessed("no --word-list is given")
        message = f"{self.count:,} of {self.seen:,} texts have a word of a list"
        numbers = {name: float(n) for name, n in self.lists.items()}
        verdict = "failed" if self.count else "passed"
        return self.made(verdict, message, numbers=numbers)  # type: ignore[arg-type]

    def mend(self, document: Document) -> Mended | None:
        """Leave a document with such a word out; of a long text, from there on."""
        found = self._find("\n".join(contents(document)))
        if found is None:
            return None
        what = (
            "the rest of a long text is left out" if document.continues else "left out"
        )
        return Mended(None, f"{what}: it has a word of the list {found[0]}")


CHECK = WordLists
