"""Repetition within a text, by the rules of Gopher (Rae et al., 2021, table A1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lumina.data.quality.gopher import GopherRules
from lumina.data.quality.words import Numbers, lengths_of, numbers_of, phrases

LINES, PARAGRAPHS = 0.30, 0.30
LINE_LETTERS, PARAGRAPH_LETTERS = 0.20, 0.20
MOST_FREQUENT = {2: 0.20, 3: 0.18, 4: 0.16}
"""Words in a row → the largest share of letters in the most frequent ones."""
REPEATED = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
"""Words in a row → the largest share of letters in those that occur again."""


class Repetition(GopherRules):
    """Lines, paragraphs and phrases that a text has again and again."""

    name = "repetition"
    title = "repetition within a text (Gopher's rules)"
    rank = 12
    some = "repeat themselves"

    def broken(self, text: str, words: list[str]) -> str | None:
        """See `broken_rule`."""
        return broken_rule(text, words)

    def none(self, texts: str) -> str:
        """None of them repeats itself much."""
        return f"none of {texts} repeats itself much"


def broken_rule(text: str, words: Sequence[str]) -> str | None:
    """The first rule that a text breaks, in words, with the share; None: no rule."""
    for name, cut, most, most_letters in (
        ("lines", "\n", LINES, LINE_LETTERS),
        ("paragraphs", "\n\n", PARAGRAPHS, PARAGRAPH_LETTERS),
    ):
        parts = [part.strip() for part in text.split(cut) if part.strip()]
        again = _again(parts)
        share = len(again) / max(len(parts), 1)
        if share > most:
            return f"repeated {name}: {share:.0%}"
        share = sum(map(len, again)) / len(text)
        if share > most_letters:
            return f"letters in repeated {name}: {share:.0%}"
    numbers, lengths = numbers_of(words), lengths_of(words)
    letters = int(lengths.sum())
    for n, most in MOST_FREQUENT.items():
        at, share = _most_frequent(numbers, lengths, n)
        if share > most:
            gram = " ".join(words[at : at + n])
            return f"most frequent {n} words: {share:.0%} is {gram!r}"
    for n, most in REPEATED.items():
        share = _repeated_letters(numbers, lengths, n) / letters
        if share > most:
            return f"repeated {n} words: {share:.0%} of the letters"
        if not share:  # and no more words in a row occur again
            break
    return None


def _again(parts: Sequence[str]) -> list[str]:
    """The parts that stand there before."""
    seen: set[str] = set()
    found = []
    for part in parts:
        if part in seen:
            found.append(part)
        seen.add(part)
    return found


def _most_frequent(
    numbers: Numbers, lengths: NDArray[np.int64], n: int
) -> tuple[int, float]:
    """Where the n words in a row stand that have most letters, and their share."""
    grams, first, times = np.unique(
        phrases(numbers, n), return_index=True, return_counts=True
    )
    if not len(grams) or times.max() < 2:
        return 0, 0.0
    sums = np.concatenate([[0], lengths.cumsum()])
    letters = np.where(times > 1, times * (sums[first + n] - sums[first]), 0)
    best = int(letters.argmax())
    return int(first[best]), float(letters[best] / lengths.sum())


def _repeated_letters(numbers: Numbers, lengths: NDArray[np.int64], n: int) -> int:
    """Letters in n words in a row that stand there before; each letter counts once."""
    grams = phrases(numbers, n)
    again = np.ones(len(grams), dtype=bool)
    again[np.unique(grams, return_index=True)[1]] = False
    if not again.any():
        return 0
    edges = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.add.at(edges, np.flatnonzero(again), 1)
    np.add.at(edges, np.flatnonzero(again) + n, -1)
    return int(lengths[edges.cumsum()[:-1] > 0].sum())


CHECK = Repetition
