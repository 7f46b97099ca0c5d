"""Writes docs/ledger.md: for every row of the specification, what shows it working.

Sources: the rows (docs/spec_rows.tsv), `@pytest.mark.covers(...)` marks found in the
tests' syntax trees, the outcomes recorded by tests/ledger_plugin.py for tests that are
still there under that name, and committed measurements (benchmarks/results/*.json with
a "covers" list).

Run by `make ledger`. Where the full specification lies beside the checkout, the rows
are refreshed from it first.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

ROW = re.compile(r"^\| ([A-Z]{3}-\d\d) \| (.+?) \| [^|]*\|$")
DEFERRED_RANGE = re.compile(r"\b([A-Z]{3})-(\d\d)(?: to \1-(\d\d))?")
TITLE_LENGTH = 88
MOST_ROWS = 3


@dataclass(frozen=True)
class Row:
    """One capability of the specification."""

    id: str
    title: str
    deferred: bool


@dataclass(frozen=True)
class Evidence:
    """Something that shows a row working: a test function or a committed result."""

    name: str
    outcome: str
    note: str = ""


def read_specification(folder: Path) -> list[Row]:
    """The rows of features.md, with README.md's list of what is deferred."""
    deferred = _deferred((folder / "README.md").read_text())
    rows = []
    for line in (folder / "features.md").read_text().splitlines():
        if found := ROW.match(line):
            row, title = found.groups()
            later = row in deferred or row.startswith("GUI-")
            rows.append(Row(row, _shorten(title), later))
    return rows


def _deferred(readme: str) -> set[str]:
    section = readme.split("## Deferred", 1)[1].split("\n\n")[1]
    rows = set()
    for domain, first, last in DEFERRED_RANGE.findall(section):
        for number in range(int(first), int(last or first) + 1):
            rows.add(f"{domain}-{number:02d}")
    return rows


def _shorten(title: str) -> str:
    """The title up to a clause end near `TITLE_LENGTH`, safe inside a table cell."""
    title = title.replace("`", "")
    if len(title) <= TITLE_LENGTH:
        return title
    return title[:TITLE_LENGTH].rsplit(" ", 1)[0].rstrip(",;:(") + " …"


def read_rows(path: Path) -> list[Row]:
    """The committed list: id, title, "deferred" or nothing, separated by tabs."""
    rows = []
    for line in path.read_text().splitlines():
        row, title, later = line.split("\t")
        rows.append(Row(row, title, later == "deferred"))
    return rows


def write_rows(path: Path, rows: list[Row]) -> None:
    """The inverse of `read_rows`."""
    lines = [f"{r.id}\t{r.title}\t{'deferred' if r.deferred else ''}" for r in rows]
    path.write_text("\n".join(lines) + "\n")


def scan_tests(root: Path) -> dict[str, list[str]]:
    """Test function (`tests/x.py::test_y`) -> rows it is marked to cover."""
    marks: dict[str, list[str]] = {}
    for path in sorted((root / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text(), str(path))
        name = path.relative_to(root).as_posix()
        for test, rows in _marked(tree, [], name):
            if rows:
                marks[test] = rows
    return marks


def _marked(
    node: ast.Module | ast.ClassDef, inherited: list[str], name: str
) -> list[tuple[str, list[str]]]:
    found = []
    for child in node.body:
        if isinstance(child, ast.Assign) and ast.unparse(child.targets[0]) == (
            "pytestmark"
        ):
            inherited = inherited + _rows_in(child.value)
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            own = [row for d in child.decorator_list for row in _rows_in(d)]
            found += _marked(child, inherited + own, f"{name}::{child.name}")
        elif isinstance(child, ast.FunctionDef) and child.name.startswith("test"):
            own = [row for d in child.decorator_list for row in _rows_in(d)]
            found.append((f"{name}::{child.name}", inherited + own))
    return found


def _rows_in(expression: ast.expr) -> list[str]:
    """Row names in every `...covers("A", "B")` call inside an expression."""
    return [
        argument.value
        for call in ast.walk(expression)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "covers"
        for argument in call.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    ]


def problems(marks: dict[str, list[str]], rows: list[Row]) -> list[str]:
    """Marks that name no row of the specification, or too many rows."""
    known = {row.id for row in rows}
    wrong = []
    for test, covered in marks.items():
        wrong += [f"{test}: no row {row}" for row in covered if row not in known]
        if len(set(covered)) > MOST_ROWS:
            wrong.append(f"{test}: {len(set(covered))} rows, at most {MOST_ROWS}")
    return wrong


def outcomes(recorded: dict[str, dict[str, dict[str, str]]]) -> dict[str, Evidence]:
    """Test function -> its outcome over all parameters, with the newest date."""
    by_test: dict[str, dict[str, dict[str, str]]] = defaultdict(dict)
    for tests in recorded.values():
        for test, entry in tests.items():
            by_test[test.split("[", 1)[0]][test] = entry
    summary = {}
    for name, entries in by_test.items():
        seen = Counter(entry["outcome"] for entry in entries.values())
        worst = next(o for o in ("failed", "passed", "skipped") if seen[o])
        newest = max(entry["date"] for entry in entries.values())
        summary[name] = Evidence(name, worst, newest)
    return summary


def committed_results(root: Path) -> dict[str, list[Evidence]]:
    """Row -> measurements under benchmarks/results that name it."""
    found: dict[str, list[Evidence]] = defaultdict(list)
    for path in sorted((root / "benchmarks" / "results").glob("*.json")):
        result = json.loads(path.read_text())
        if not isinstance(result, dict):
            continue
        where = ", ".join(
            str(result[key]) for key in ("hardware", "date") if result.get(key)
        )
        for row in result.get("covers", []):
            name = path.relative_to(root).as_posix()
            found[row].append(Evidence(name, "passed", where))
    return found


def existing(root: Path) -> set[str]:
    """Every test there is, parameters included, as pytest names them."""
    options = ["--collect-only", "-q", "--no-header", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode not in (0, 5):  # 5: there are none
        raise SystemExit("the tests cannot be listed:\n" + done.stdout[-2000:])
    return {line for line in done.stdout.splitlines() if "::" in line}


def gather(root: Path, rows: list[Row]) -> dict[str, list[Evidence]]:
    """Row -> everything that covers it, run or not."""
    recorded_path = root / ".ledger" / "last_run.json"
    recorded = json.loads(recorded_path.read_text()) if recorded_path.exists() else {}
    there = existing(root) if recorded else set()
    still = {
        row: {test: entry for test, entry in tests.items() if test in there}
        for row, tests in recorded.items()
    }
    known = outcomes(still)
    evidence = committed_results(root)
    marks = scan_tests(root)
    if wrong := problems(marks, rows):
        raise SystemExit("wrong covers marks:\n  " + "\n  ".join(wrong))
    for test, covered in marks.items():
        for row in dict.fromkeys(covered):
            evidence[row].append(known.get(test, Evidence(test, "not run")))
    return evidence


def status(row: Row, evidence: list[Evidence]) -> str:
    """One word (or two) for a row: the worst that is known of what covers it."""
    seen = {item.outcome for item in evidence}
    if "failed" in seen:
        return "failing"
    if "passed" in seen:
        return "covered"
    if seen:
        return "not run"
    return "deferred" if row.deferred else "not yet"


def render(rows: list[Row], evidence: dict[str, list[Evidence]]) -> str:
    """The ledger as Markdown, one table to a domain."""
    lines = ["# Ledger", "", "Generated by `make ledger`; do not edit.", ""]
    lines += [summary(rows, evidence), ""]
    lines += [
        "A row is *covered* when a test marked for it passed in the last run, or a",
        "committed measurement names it; *not run* when its tests were skipped or left",
        "out (they need a GPU, say); *deferred* when accepted but put off.",
    ]
    domain = ""
    for row in rows:
        if row.id[:3] != domain:
            domain = row.id[:3]
            lines += ["", f"## {domain}", ""]
            lines += ["| Row | Capability | Status | Covered by |", "|---|---|---|---|"]
        items = evidence.get(row.id, [])
        lines.append(
            f"| {row.id} | {row.title.replace('|', '/')} | {status(row, items)} "
            f"| {'<br>'.join(_describe(item) for item in items)} |"
        )
    return "\n".join(lines) + "\n"


def _describe(item: Evidence) -> str:
    note = f", {item.note}" if item.note else ""
    return f"`{item.name}` ({item.outcome}{note})"


def summary(rows: list[Row], evidence: dict[str, list[Evidence]]) -> str:
    """How many rows stand where, in one line."""
    count = Counter(status(row, evidence.get(row.id, [])) for row in rows)
    rest = ", ".join(
        f"{name} {count[name]}"
        for name in ("failing", "not run", "deferred", "not yet")
        if count[name]
    )
    return f"covered {count['covered']} of {len(rows)} ({rest})"


def main(argv: list[str] | None = None) -> int:
    """Write the ledger; 1 when a covering test failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1])
    root = parser.parse_args(argv).root.resolve()
    rows_path = root / "docs" / "spec_rows.tsv"
    specification = root.parent / "shared" / "spec"
    if (specification / "features.md").exists():
        write_rows(rows_path, read_specification(specification))
    rows = read_rows(rows_path)
    evidence = gather(root, rows)
    (root / "docs" / "ledger.md").write_text(render(rows, evidence))
    print(summary(rows, evidence))
    failing = [r.id for r in rows if status(r, evidence.get(r.id, [])) == "failing"]
    if failing:
        print(f"failing: {', '.join(failing)}", file=sys.stderr)
    return 1 if failing else 0


if __name__ == "__main__":
    sys.exit(main())
