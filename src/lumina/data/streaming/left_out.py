"""What a stream leaves out, counted in memory that does not grow with it."""

from __future__ import annotations

from dataclasses import dataclass, field

from lumina.data.documents import Skipped

TOLD = 20
"""Records that were left out and are named one by one; further ones are counted."""


@dataclass
class LeftOut:
    """What was left out in some part of the data.

    Attributes:
        count: bad records.
        first: the first of them, at most `TOLD`.
        characters: characters that `ascii_only` took out.
        texts: texts that it left out whole.
    """

    count: int = 0
    first: list[Skipped] = field(default_factory=list)
    characters: int = 0
    texts: int = 0

    def skip(self, record: Skipped) -> None:
        """Count a bad record."""
        self.count += 1
        if len(self.first) < TOLD:
            self.first.append(record)

    def remove(self, characters: int, whole: bool) -> None:
        """Count what was taken out of a text."""
        self.characters += characters
        self.texts += whole

    def take(self, other: LeftOut) -> None:
        """Add what another one counted, which is then empty."""
        self.count += other.count
        self.first += other.first[: TOLD - len(self.first)]
        self.characters += other.characters
        self.texts += other.texts
        other.count = other.characters = other.texts = 0
        other.first = []
