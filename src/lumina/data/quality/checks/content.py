"""Whether texts look like prose, by the rules of Gopher (Rae et al., 2021, A.1.1)."""

from __future__ import annotations

from collections import Counter

from lumina.data.quality.check import Check, Item, Options, Result

LEAST_WORDS = 50
WORD_LENGTHS = (3, 10)
SYMBOLS, BULLETS, ELLIPSES, WITH_LETTERS = 0.1, 0.9, 0.3, 0.8


class ContentQuality(Check):
    """Length of words, symbols, bullets, unfinished lines, words with letters."""

    name = "content"
    title = "content that is not prose (Gopher's rules)"
    rank = 13

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.rules: Counter[str] = Counter()

    def see(self, item: Item) -> None:
        """Note a text that breaks a rule."""
        words = item.text.split()
        if len(words) < LEAST_WORDS:
            return
        self.seen += 1
        broken = broken_rule(item.text, words)
        if broken is not None:
            self.rules[broken.partition(":")[0]] += 1
            self.note(item, f"{broken}; {item.text}")

    def result(self) -> Result:
        """The verdict, with the number for each rule."""
        if not self.seen:
            return self.not_assessed(f"no text has {LEAST_WORDS} words")
        message = (
            f"{self.count:,} of {self.seen:,} texts of {LEAST_WORDS} words and more do "
            "not look like prose; nor do tables, code and scripts without spaces"
            if self.count
            else f"all {self.seen:,} texts of {LEAST_WORDS} words and more look like "
            "prose"
        )
        numbers = {rule: float(n) for rule, n in self.rules.items()}
        return self.made("found" if self.count else "passed", message, numbers=numbers)


def broken_rule(text: str, words: list[str]) -> str | None:
    """The first rule that a text breaks, in words; None: no rule."""
    count = len(words)
    mean = sum(map(len, words)) / count
    if not WORD_LENGTHS[0] <= mean <= WORD_LENGTHS[1]:
        return f"mean length of words: {mean:.1f}"
    symbols = text.count("#") + text.count("...") + text.count("…")
    if symbols / count > SYMBOLS:
        return f"symbols for each word: {symbols / count:.2f}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    bullets = sum(line.startswith(("•", "-", "*")) for line in lines) / len(lines)
    if bullets > BULLETS:
        return f"lines that begin with a bullet: {bullets:.0%}"
    cut = sum(line.endswith(("...", "…")) for line in lines) / len(lines)
    if cut > ELLIPSES:
        return f"lines that end with an ellipsis: {cut:.0%}"
    letters = sum(any(map(str.isalpha, word)) for word in words) / count
    if letters < WITH_LETTERS:
        return f"words with a letter: {letters:.0%}"
    return None


CHECK = ContentQuality
