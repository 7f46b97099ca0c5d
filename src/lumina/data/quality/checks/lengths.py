"""How long documents are, in bytes and in tokens."""

from __future__ import annotations

from lumina.data.quality.check import Check, Item, Options, Result, distribution

LEAST_BYTES = 2


class Lengths(Check):
    """Documents that have almost nothing in them, or more than can be learned."""

    name = "lengths"
    title = "length of documents"
    rank = 7
    statistic = True
    answers = ("reasonable_lengths",)

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.bytes: list[int] = []
        self.tokens: list[int] = []
        self.last: Item | None = None

    def see(self, item: Item) -> None:
        """Add a document, or a piece to the document before."""
        size = len(item.text.encode())
        if item.document.continues and self.bytes:
            self.bytes[-1] += size
            if item.tokens is not None:
                self.tokens[-1] += item.tokens
            return
        self._close()
        self.seen += 1
        self.last = item
        self.bytes.append(size)
        if item.tokens is not None:
            self.tokens.append(item.tokens)

    def _close(self) -> None:
        """Note the document before, now that it is whole, if its length is odd."""
        if self.last is None:
            return
        most = self.options.most_tokens
        if self.bytes[-1] < LEAST_BYTES:
            self.note(self.last, f"{self.bytes[-1]} bytes: {self.last.text!r}")
        elif self.tokens and self.tokens[-1] > most:
            self.note(self.last, f"{self.tokens[-1]:,} tokens, more than {most:,}")
        self.last = None

    def result(self) -> Result:
        """The verdict, with the distribution: in tokens where there is a tokenizer."""
        self._close()
        unit = "tokens" if self.tokens else "bytes"
        numbers, bars = distribution(self.tokens or self.bytes)
        numbers = {f"{name} {unit}": value for name, value in numbers.items()}
        if self.tokens:
            numbers["bytes for each token"] = sum(self.bytes) / max(sum(self.tokens), 1)
        message = (
            f"{self.count:,} of {self.seen:,} documents are very short or long"
            if self.count
            else f"the length of all {self.seen:,} documents is usual"
        )
        if not self.tokens:
            message += "; lengths in tokens are not assessed without --tokenizer"
        return self.made(
            "found" if self.count else "passed", message, numbers=numbers, bars=bars
        )


CHECK = Lengths
