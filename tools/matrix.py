"""The page of the matrix, from the rows that come with Lumina.

    python tools/matrix.py              print it
    python tools/matrix.py --write      put it into docs/matrix.md
    python tools/matrix.py --check      fail where the page has another
    python tools/matrix.py --take FILE  take rows of `lumina matrix` into Lumina first

Rows are taken into src/lumina/features/matrix_rows, a file for each kind of device; one
of the same cell, device and version of torch takes the place of an earlier one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

from lumina.features import FEATURES
from lumina.features.measured import committed_rows
from lumina.train.matrix.cell import Cell, tried_features
from lumina.train.matrix.judge import STATUSES
from lumina.train.matrix.named import named_cells
from lumina.train.matrix.use_cases import USE_CASES

ROOT = Path(__file__).parents[1]
ROWS = ROOT / "src" / "lumina" / "features" / "matrix_rows"
PAGE = ROOT / "docs" / "matrix.md"
BEGIN, END = "<!-- made by tools/matrix.py -->", "<!-- end of what is made -->"

OLD = {
    "verified": "Verified; Supported",
    "differs": "Partial",
    "refused": "Incompatible",
    "failed": "Experimental",
    "untested: absent": "Untested; Platform",
}
"""Status -> the words of the earlier design's legend for it."""


def main() -> int:
    """Print, write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--take", nargs="+", type=Path, default=[], metavar="FILE")
    args = parser.parse_args()
    for file in args.take:
        take(file)
    committed_rows.cache_clear()
    made = page(list(committed_rows()))
    before = PAGE.read_text()
    head, _, rest = before.partition(BEGIN)
    _, _, tail = rest.partition(END)
    after = f"{head}{BEGIN}\n{made}\n{END}{tail}"
    if args.write:
        PAGE.write_text(after)
    elif args.check:
        if after != before:
            print("docs/matrix.md is not what the rows say: tools/matrix.py --write")
            return 1
    else:
        print(made)
    return 0


def take(file: Path) -> None:
    """Merge rows into the files of Lumina."""
    ROWS.mkdir(exist_ok=True)
    new = [json.loads(line) for line in file.read_text().splitlines()]
    for device in sorted({row["hardware"]["device"] for row in new}):
        target = ROWS / f"{device}.jsonl"
        old = target.read_text().splitlines() if target.exists() else []
        rows = {_same(row): row for row in map(json.loads, old)}
        rows |= {_same(row): row for row in new if row["hardware"]["device"] == device}
        target.write_text("".join(json.dumps(row) + "\n" for row in rows.values()))


def _same(row: dict[str, Any]) -> tuple[str, ...]:
    hardware = row["hardware"]
    return row["cell"], hardware["name"], hardware["versions"].get("torch", "")


def page(rows: list[Any]) -> str:
    """What stands between the marks."""
    tried_features()  # ways to share a training register theirs
    order = [cell.name for cell in named_cells()]
    named = [row for row in rows if row["named"] in order]
    named.sort(key=lambda row: order.index(row["named"]))
    single = [row for row in rows if not row["named"] and len(row["features"]) == 1]
    several = [row for row in rows if not row["named"] and len(row["features"]) > 1]
    parts = [
        _legend(rows),
        "## Combinations of the earlier design\n\n" + _table(named, settles=True),
        "## Each feature alone\n\n" + _table(single),
        "## Features together\n\n" + _pairs(rows) + "\n\n" + _table(several),
        "## The best combination for each use\n\n" + _uses(rows),
    ]
    return "\n\n".join(parts)


def _legend(rows: list[Any]) -> str:
    counts = Counter(row["status"] for row in rows)
    lines = [
        "| Status | Means | The earlier design's word | Cells |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {status} | {text} | {OLD[status]} | {counts[status]} |"
        for status, text in STATUSES.items()
    ]
    return "\n".join(lines)


def _table(rows: list[Any], settles: bool = False) -> str:
    if not rows:
        return "No cell has run."
    what = "Features and what is settled" if settles else "Seen by"
    lines = [
        f"| Cell | {what} | Status | Gradients | Loss | Memory | Time | Where |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        figures = row["figures"]
        status = f"{row['status']} {row['code']}".strip()
        if row["why"]:
            status += f": {row['why']}"
        second = _settled(row) if settles else _seen(row)
        cells = [
            row["cell"], second, status,
            _number(figures.get("gradient_error")),
            _number(figures.get("learned_error")),
            _ratio(figures, "memory"), _ratio(figures, "step_seconds"), _where(row),
        ]  # fmt: skip
        lines.append("| " + " | ".join(one.replace("|", "/") for one in cells) + " |")
    return "\n".join(lines)


def _settled(row: dict[str, Any]) -> str:
    features = " + ".join(f"`{name}`" for name in row["features"])
    return f"{features}: {row['settles']}" if features else row["settles"]


def _seen(row: dict[str, Any]) -> str:
    return "; ".join(row["live"].values()) or "-"


def _number(value: Any) -> str:
    return f"{value:.1e}" if isinstance(value, float) else "-"


def _ratio(figures: dict[str, Any], name: str) -> str:
    mine, other = figures.get(name), figures.get(f"{name}_reference")
    return f"{mine / other:.2f}" if mine and other else "-"


def _where(row: dict[str, Any]) -> str:
    hardware = row["hardware"]
    ranks = f", {row['ranks']} processes" if row["ranks"] > 1 else ""
    torch = hardware["versions"]["torch"]
    return f"{hardware['name']}, torch {torch}, {row['date']}{ranks}"


def _pairs(rows: list[Any]) -> str:
    """How many pairs of all are known, and how."""
    known: dict[tuple[str, ...], str] = {}
    for row in rows:
        for pair in combinations(sorted(row["features"]), 2):
            if row["status"] == "verified" or len(row["features"]) == 2:
                known[pair] = (
                    "verified" if row["status"] == "verified" else row["status"]
                )
    counts = Counter(known.values())
    close = {
        pair
        for row in rows
        if row["status"] == "verified"
        for pair in combinations(sorted(row["features"]), 2)
        if _within(row["figures"], pair)
    }
    names = tried_features()
    every = len(names) * (len(names) - 1) // 2
    shown = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    return (
        f"Of the {every} pairs of {len(names)} features {len(known)} are known: "
        f"{shown}. Of the verified ones {len(close)} are in a row whose errors are "
        "within what the two alone are allowed; the others are in rows that a third "
        "feature allows more. Of pairs that are not known no row says anything; "
        "`lumina matrix --pairs` tries them."
    )


def _within(figures: dict[str, Any], pair: tuple[str, ...]) -> bool:
    """Whether a row's errors are no larger than a cell of two features may have."""
    if not FEATURES.keys() >= set(pair):
        return False
    allowed = Cell(pair).tolerance
    return all(
        isinstance(figures.get(name), float) and figures[name] <= most
        for name, most in (
            ("first_loss_error", allowed.first_loss),
            ("gradient_error", allowed.gradients),
            ("learned_error", allowed.learned),
        )
    )


def _uses(rows: list[Any]) -> str:
    lines = ["| Use | Settings | Rests on | Memory | Time |", "|---|---|---|---|---|"]
    found = {row["cell"]: row for row in rows}
    for use in USE_CASES:
        row = found.get(use.cell)
        status = f"{use.cell}: {row['status']}" if row else f"{use.cell}: has not run"
        figures = row["figures"] if row else {}
        lines.append(
            f"| {use.name} | `{use.flags}` | {status} | {_ratio(figures, 'memory')} | "
            f"{_ratio(figures, 'step_seconds')} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
