"""The scripts of the letters, by the names that Unicode gives them."""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import lru_cache

from lumina.data.quality.check import Check, Item, Options, Result

_MOST_SHOWN = 20


class Scripts(Check):
    """Which scripts the letters are of. The language of a text is not assessed."""

    name = "scripts"
    title = "scripts (languages are not assessed)"
    rank = 8
    answers = ("language_appropriate",)
    statistic = True

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.letters: Counter[str] = Counter()
        self.main: Counter[str] = Counter()
        self.wanted = {script.upper() for script in options.scripts}

    def see(self, item: Item) -> None:
        """Count the letters; note a text of which most are of another script."""
        self.seen += 1
        found: Counter[str] = Counter()
        for letter, times in Counter(item.text).items():
            if letter.isalpha():
                found[script_of(letter)] += times
        self.letters.update(found)
        if not found:
            return
        [(main, _)] = found.most_common(1)
        self.main[main] += 1
        if self.wanted and main not in self.wanted:
            self.note(item, f"{main}: {item.text}")

    def result(self) -> Result:
        """The verdict where scripts were named, and the scripts that there are."""
        bars = self.main.most_common(_MOST_SHOWN)
        numbers = {
            f"letters of {script}": float(n)
            for script, n in self.letters.most_common(_MOST_SHOWN)
        }
        if not self.wanted:
            shown = ", ".join(f"{script} {n:,}" for script, n in bars[:5]) or "none"
            return self.made(
                "information",
                f"texts by script: {shown}; languages are not assessed",
                numbers=numbers,
                bars=bars,
            )
        message = (
            f"most letters of {self.count:,} of {self.seen:,} texts are not of "
            f"{', '.join(sorted(self.wanted))}"
        )
        verdict = "failed" if self.count else "passed"
        return self.made(verdict, message, numbers=numbers, bars=bars)  # type: ignore[arg-type]


@lru_cache(maxsize=2**16)
def script_of(letter: str) -> str:
    """The script of a letter: the first word of its name (LATIN SMALL LETTER A)."""
    name = unicodedata.name(letter, "UNKNOWN")
    return name.split(" ", 1)[0].split("-", 1)[0]


CHECK = Scripts
