"""Whether records have the fields of a form, and those of a file the same form."""

from __future__ import annotations

from collections import Counter

from lumina.data.quality.check import Check, Item, Options, Result
from lumina.data.quality.checks.empty import is_empty
from lumina.data.skipping import Skipped


class Structure(Check):
    """Required fields, and one form of record in each file."""

    name = "structure"
    title = "fields and forms of records"
    rank = 2
    statistic = True
    answers = ("consistent_schema",)

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.forms: dict[str, Counter[str]] = {}

    def see(self, item: Item) -> None:
        """Count the form of a record."""
        document = item.document
        if document.continues:
            return
        self.seen += 1
        if document.form:
            self.forms.setdefault(document.source, Counter())[document.form] += 1

    def see_bad(self, record: Skipped) -> None:
        """Count a record that lacks its fields."""
        if record.code == "E102" and not is_empty(record):
            self.note_at(record.source, record.line, record.reason)

    def result(self) -> Result:
        """The verdict, with the number of each form."""
        mixed = [source for source, forms in self.forms.items() if len(forms) > 1]
        bad = self.count
        for source in mixed:
            names = ", ".join(f"{form} {n:,}" for form, n in self.forms[source].items())
            self.note_at(source, None, f"records of several forms: {names}")
        self.count = bad
        parts = []
        if bad:
            parts.append(f"{bad:,} records lack the fields of every form")
        if mixed:
            parts.append(f"{len(mixed):,} files have records of several forms")
        every = sum(self.forms.values(), start=Counter[str]())
        numbers = {name: float(n) for name, n in every.items()}
        message = "; ".join(parts) or "every record has the fields of its form"
        return self.made("failed" if parts else "passed", message, numbers=numbers)


CHECK = Structure
