"""Whether every record can be read."""

from __future__ import annotations

from collections import Counter

from lumina.data.quality.check import Check, Item, Options, Result
from lumina.data.skipping import Skipped
from lumina.errors import CODES

_DAMAGE = ("E101", "E103", "E106")


class Integrity(Check):
    """Files and records that can be read: whole JSON, whole archives, permission."""

    name = "integrity"
    title = "files and records that can be read"
    rank = 1
    statistic = True
    answers = ("valid_json",)

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.codes: Counter[str] = Counter()

    def see(self, item: Item) -> None:
        """Count a document that was read."""
        self.seen += not item.document.continues

    def see_bad(self, record: Skipped) -> None:
        """Count one that was not."""
        if record.code in _DAMAGE:
            self.codes[record.code] += 1
            self.note_at(record.source, record.line, record.reason)

    def result(self) -> Result:
        """The verdict, with the number for each error code."""
        by_code = {f"{code} {CODES[code]}": n for code, n in self.codes.items()}
        message = (
            f"{self.count:,} files or records cannot be read"
            if self.count
            else f"all {self.seen:,} documents can be read"
        )
        numbers = {name: float(n) for name, n in by_code.items()}
        return self.made("failed" if self.count else "passed", message, numbers=numbers)


CHECK = Integrity
