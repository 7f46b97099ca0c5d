"""Which raw results stand behind each row of docs/claims.md.

A row that says that something was measured has its raw data in one of four ways:

- it names files of benchmarks/results, or a test that measures it again on each run;
- the text above its table names files for all of its rows;
- it is a row of "the same", and goes with the row above it;
- benchmarks/results/claims.toml names files for it, or says why there are none; the
  latter only of what was measured before 2026-12-01. Since then all is kept.

    python tools/claims.py            what stands behind each row
    python tools/claims.py --check    fail where a row has nothing, or is new and says
                                      why, where a file is missing, holds nothing or is
                                      named by no row, and where a speed that a row
                                      gives is not in its files
    python tools/claims.py --write    the list of rows without raw results, in the page
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "claims.md"
RESULTS = ROOT / "benchmarks" / "results"
TABLE = RESULTS / "claims.toml"
BEGIN = "<!-- rows without raw results, by tools/claims.py -->"
END = "<!-- end of these rows -->"

KEPT_SINCE = "2026-12-01"
"""A row of this date or a later one has raw data: no reason excuses it."""

_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_FILE = re.compile(r"\b([\w.-]+\.jsonl?(?:\.gz)?)\b")
_TEST = re.compile(
    r"(?:pytest|-m pytest)[^|`]*\b(tests/[\w/]+(?:\.py)?)|`(tests/[\w/]+\.py)`"
)
_SAME = re.compile(r"^(the same\b|and \d)|the same file", re.I)
_SPEED = re.compile(r"([\d,]+\d) tokens/s")


@dataclass
class Row:
    """A row of a table of the page.

    Attributes:
        section: the heading above it.
        cells: its cells.
        above: the text between the heading, or the table before, and its table.
        files: of benchmarks/results, that hold its raw data.
        tests: that measure it again.
        why_not: why there is no raw data.
        before: the row above it in its table.
    """

    section: str
    cells: list[str]
    above: str
    files: list[str] = field(default_factory=list)
    tests: list[str] = field(default_factory=list)
    why_not: str = ""
    before: Row | None = None

    @property
    def claim(self) -> str:
        """What it says was measured: its first cell."""
        return self.cells[0]

    @property
    def text(self) -> str:
        """The whole row."""
        return " | ".join(self.cells)

    @property
    def measured(self) -> bool:
        """Whether it says that something was."""
        return not any(cell.startswith("not measured") for cell in self.cells)

    @property
    def date(self) -> str:
        """When: of its own cell, else of the text above; "" where none is given."""
        dates = [cell for cell in self.cells if _DATE.fullmatch(cell)]
        return max(dates or _DATE.findall(self.above), default="")

    @property
    def settled(self) -> bool:
        """Whether it is known where its raw data is, or why there is none."""
        return bool(self.files or self.tests or self.why_not)


def rows_of(text: str) -> list[Row]:
    """The rows of all tables of a page, without their heads."""
    found: list[Row] = []
    section, above, before, head = "", "", None, True
    for line in text.split(BEGIN)[0].splitlines():
        if line.startswith("## "):
            section, above, before, head = line[3:], "", None, True
        elif not line.startswith("|"):
            if not head:  # the text of the next table
                above = ""
            above, before, head = f"{above}\n{line}", None, True
        elif set(line) <= set("|- "):
            head = False
        elif not head:
            cells = re.split(r"\s*\|\s*", line.strip().strip("|").strip())
            before = Row(section, cells, above, before=before)
            found.append(before)
    return found


def settle(rows: list[Row], table: dict[str, Any]) -> list[str]:
    """Find the raw data of each row; returns entries of the table that fit no row."""
    unused = [(s, c) for s, entries in table.items() for c in entries]
    for row in rows:
        for begins, data in table.get(row.section, {}).items():
            if not row.claim.startswith(begins):
                continue
            if (row.section, begins) in unused:
                unused.remove((row.section, begins))
            if isinstance(data, str):
                row.why_not = data
            else:
                row.files += data
        for text in (row.text, row.above):
            if not row.settled:
                row.files = [n for n in _FILE.findall(text) if (RESULTS / n).exists()]
                row.tests = [a or b for a, b in _TEST.findall(text)]
        if (
            not row.settled
            and row.before is not None
            and (any(_SAME.search(cell) for cell in row.cells[:2]))
        ):
            row.files, row.tests = row.before.files, row.before.tests
            row.why_not = row.before.why_not
    return [f"{section}: {claim}" for section, claim in unused]


def text_of(name: str) -> str:
    """What a file of results holds, unpacked."""
    data = (RESULTS / name).read_bytes()
    return (gzip.decompress(data) if name.endswith(".gz") else data).decode()


def numbers_of(name: str) -> set[int]:
    """All numbers of a file of results, rounded to whole ones."""
    text = text_of(name)
    lines = text.splitlines() if ".jsonl" in name else [text]
    return {n for line in lines if line.strip() for n in _numbers(json.loads(line))}


def _numbers(value: Any) -> Iterator[int]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _numbers(inner)
        if isinstance(length := value.get("length"), int):
            # Rows of this many tokens, and the seconds that each of them took.
            taken = value.get("seconds")
            taken = taken if isinstance(taken, list) else []
            yield from (round(length / seconds) for seconds in taken)
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner)
    elif isinstance(value, (int, float)) and abs(value) < 1e15:
        yield round(value)


def faults(rows: list[Row], unused: list[str], page: str) -> list[str]:
    """What is wrong, a line each."""
    found = [f"claims.toml has an entry for no row: {entry}" for entry in unused]
    named: set[str] = set(_FILE.findall(page))
    for row in rows:
        where = f"{row.section}: {row.claim[:60]}"
        if row.measured and not row.settled:
            found.append(f"{where}: no raw data, and no reason why")
        if row.measured and not row.date:
            found.append(f"{where}: no date")
        if row.why_not and row.measured and row.date >= KEPT_SINCE:
            found.append(
                f"{where}: measured on {row.date}, so its raw data has to be kept"
            )
        for name in row.files:
            if not (RESULTS / name).is_file():
                found.append(f"{where}: there is no benchmarks/results/{name}")
            elif not text_of(name).strip("[]{} \n"):
                found.append(f"{where}: nothing is in benchmarks/results/{name}")
        for name in row.tests:
            if not (ROOT / name).exists():
                found.append(f"{where}: there is no {name}")
        named |= set(row.files)
    kept = {path.name for path in RESULTS.iterdir()} - {TABLE.name}
    found += [f"benchmarks/results/{n} is of no row" for n in sorted(kept - named)]
    return found + [line for row in rows for line in wrong_speeds(row)]


def wrong_speeds(row: Row) -> list[str]:
    """Speeds of a row that none of its files has."""
    there: set[int] = set()
    for name in row.files:
        if (RESULTS / name).is_file():
            there |= numbers_of(name)
    # The first cell may name a goal.
    said = [int(n.replace(",", "")) for c in row.cells[1:] for n in _SPEED.findall(c)]
    return [
        f"{row.section}: {row.claim[:60]}: {speed:,} tokens/s is in none of "
        f"{', '.join(row.files)}"
        for speed in said
        if there and speed not in there
    ]


def listed(rows: list[Row]) -> str:
    """The rows without raw results, as a part of the page."""
    lines = [BEGIN, "", "| Section | Claim | Why |", "|---|---|---|"]
    lines += [
        f"| {row.section} | {row.claim} | {row.why_not} |"
        for row in rows
        if row.why_not and row.measured
    ]
    return "\n".join([*lines, "", END])


def main() -> int:
    """Print, check or write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    rows = rows_of(page)
    unused = settle(rows, tomllib.loads(TABLE.read_text(encoding="utf-8")))
    if asked.write:
        head, _, rest = page.partition(BEGIN)
        PAGE.write_text(head + listed(rows) + rest.partition(END)[2], encoding="utf-8")
        return 0
    wrong = faults(rows, unused, page)
    if listed(rows) not in page:
        wrong.append(
            "the list in docs/claims.md is old: python tools/claims.py --write"
        )
    if asked.check:
        print("\n".join(wrong), file=sys.stderr)
        return bool(wrong)
    for row in rows:
        said = ", ".join([*row.files, *row.tests]) or row.why_not or "NOTHING"
        print(f"{row.section[:20]:20} | {row.claim[:60]:60} | {said}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
