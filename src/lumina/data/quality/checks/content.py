"""Whether texts look like prose, by the rules of Gopher (Rae et al., 2021, A.1.1)."""

from __future__ import annotations

from lumina.data.quality.check import Item
from lumina.data.quality.gopher import GopherRules

WORD_LENGTHS = (3, 10)
SYMBOLS, BULLETS, ELLIPSES, WITH_LETTERS = 0.1, 0.9, 0.3, 0.8


class ContentQuality(GopherRules):
    """Length of words, symbols, bullets, unfinished lines, words with letters."""

    name = "content"
    title = "content that is not prose (Gopher's rules)"
    rank = 13
    some = "do not look like prose; nor do tables, code and scripts without spaces"

    def broken(self, text: str, words: list[str]) -> str | None:
        """See `broken_rule`."""
        return broken_rule(text, words)

    def none(self, texts: str) -> str:
        """All of them look like prose."""
        return f"all {texts} look like prose"

    def shown(self, item: Item, broken: str) -> str:
        """The rule, and how the text begins."""
        return f"{broken}; {item.text}"


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
