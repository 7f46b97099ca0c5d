"""Writes docs/internal/ledger.md: what shows each row of the specification working.

Sources: the rows (spec_rows.tsv beside the page) and their clauses (spec_clauses.toml),
the `@pytest.mark.covers(...)` marks as pytest collects them and the outcomes of the
marked tests (both recorded by tests/ledger_plugin.py), and committed measurements
(benchmarks/results/*.json with a "covers" list).

A mark names a row, or, where the table lists clauses of that row, one clause:
`covers("TRN-25: NaN/Inf guard")`. A row with clauses is shown when all of them are.

Run by `make ledger`. Where the full specification lies beside the checkout, the rows
are refreshed from it first. `make lint` runs it with --check, which only refuses marks
that name no row or no clause.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

ROW = re.compile(r"^\| ([A-Z]{3}-\d\d) \| (.+?) \| [^|]*\|$")
DEFERRED_RANGE = re.compile(r"\b([A-Z]{3})-(\d\d)(?: to \1-(\d\d))?")
TITLE_LENGTH = 88
MOST_ROWS = 3
MARKS = ".ledger/marks.json"
LAST_RUN = ".ledger/last_run.json"


@dataclass(frozen=True)
class Row:
    """One capability of the specification, with its clauses where it has several."""

    id: str
    title: str
    deferred: bool
    clauses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """Something that shows a row or a clause of it: tests, or a committed result."""

    name: str
    outcome: str
    note: str = ""
    clause: str = ""


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


def read_rows(path: Path, clauses: dict[str, list[str]]) -> list[Row]:
    """The committed list: id, title, "deferred" or nothing, separated by tabs."""
    rows = []
    for line in path.read_text().splitlines():
        row, title, later = line.split("\t")
        rows.append(Row(row, title, later == "deferred", tuple(clauses.get(row, ()))))
    if unknown := sorted(clauses.keys() - {row.id for row in rows}):
        raise SystemExit(f"clauses of rows that do not exist: {', '.join(unknown)}")
    return rows


def read_clauses(path: Path) -> dict[str, list[str]]:
    """The committed table of clauses: row -> what it promises, each in a few words."""
    table: dict[str, list[str]] = tomllib.loads(path.read_text())
    for row, clauses in table.items():
        if len(set(clauses)) != len(clauses) or len(clauses) < 2:
            raise SystemExit(f"{path.name}: {row} needs two or more different clauses")
    return table


def write_rows(path: Path, rows: list[Row]) -> None:
    """The inverse of `read_rows`."""
    lines = [f"{r.id}\t{r.title}\t{'deferred' if r.deferred else ''}" for r in rows]
    path.write_text("\n".join(lines) + "\n")


def collect(root: Path) -> dict[str, list[str]]:
    """Every test there is, as pytest names it -> the marks that reach it."""
    options = ["--collect-only", "-q", "--no-header", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode not in (0, 5):  # 5: there are none
        raise SystemExit("the tests cannot be listed:\n" + done.stdout[-2000:])
    marks: dict[str, list[str]] = json.loads((root / MARKS).read_text())
    return marks


def parse(mark: str) -> tuple[str, str]:
    """A mark's row and clause: "TRN-25: NaN/Inf guard"; no clause, no colon."""
    row, _, clause = mark.partition(":")
    return row.strip(), clause.strip()


def problems(marks: dict[str, list[str]], rows: list[Row]) -> list[str]:
    """Marks that name no row or clause of the specification, or too many rows."""
    known = {row.id: row for row in rows}
    wrong: dict[str, None] = {}
    for test, given in marks.items():
        name = function_of(test)
        for mark in given:
            if complaint := _complaint(mark, known):
                wrong[f"{name}: {complaint}"] = None
        count = len({parse(mark)[0] for mark in given})
        if count > MOST_ROWS:
            wrong[f"{name}: {count} rows, at most {MOST_ROWS}"] = None
    return list(wrong)


def _complaint(mark: str, known: dict[str, Row]) -> str:
    name, clause = parse(mark)
    if name not in known:
        return f"no row {name}"
    clauses = known[name].clauses
    if clause in clauses or not (clauses or clause):
        return ""
    if not clauses:
        return f"{name} has no clauses, so none named {clause!r}"
    wrong = f"no clause {clause!r}" if clause else "names no clause"
    return f"{name} {wrong}; there are: {'; '.join(clauses)}"


def function_of(test: str) -> str:
    """`tests/x.py::test_y[case]` without its case."""
    return test.split("[", 1)[0]


def showing(marks: dict[str, list[str]]) -> dict[tuple[str, str], dict[str, list[str]]]:
    """(Row, clause) -> name -> tests of that name that are marked to show it.

    The name is that of the function where every case of it carries the mark, else that
    of the single case.
    """
    cases: dict[str, list[str]] = defaultdict(list)
    marked: dict[tuple[str, str], dict[str, list[str]]] = {}
    for test, given in marks.items():
        cases[function_of(test)].append(test)
        for mark in dict.fromkeys(given):
            by_function = marked.setdefault(parse(mark), defaultdict(list))
            by_function[function_of(test)].append(test)
    return {
        clause: {
            name: tests
            for function, found in by_function.items()
            for name, tests in (
                [(function, found)]
                if len(found) == len(cases[function])
                else [(test, [test]) for test in found]
            )
        }
        for clause, by_function in marked.items()
    }


def outcome(tests: list[str], recorded: dict[str, dict[str, str]]) -> tuple[str, str]:
    """The worst outcome of these tests in their last runs, with the newest date."""
    entries = [recorded[test] for test in tests if test in recorded]
    if not entries:
        return "not run", ""
    seen = {entry["outcome"] for entry in entries}
    worst = next(o for o in ("failed", "passed", "skipped") if o in seen)
    return worst, max(entry["date"] for entry in entries)


def committed_results(root: Path) -> dict[str, list[tuple[str, str]]]:
    """Measurement under benchmarks/results -> rows it names, with where and when."""
    found: dict[str, list[tuple[str, str]]] = {}
    for path in sorted((root / "benchmarks" / "results").glob("*.json")):
        result = json.loads(path.read_text())
        if isinstance(result, dict) and result.get("covers"):
            where = [str(result[k]) for k in ("hardware", "date") if result.get(k)]
            name = path.relative_to(root).as_posix()
            found[name] = [(mark, ", ".join(where)) for mark in result["covers"]]
    return found


def gather(root: Path, rows: list[Row]) -> dict[str, list[Evidence]]:
    """Row -> everything that is marked to show it or a clause of it, run or not."""
    marks = collect(root)
    measured = committed_results(root)
    named = {name: [mark for mark, _ in found] for name, found in measured.items()}
    if wrong := problems(marks | named, rows):
        raise SystemExit("wrong covers marks:\n  " + "\n  ".join(wrong))
    path = root / LAST_RUN
    recorded = json.loads(path.read_text()) if path.exists() else {}
    evidence: dict[str, list[Evidence]] = defaultdict(list)
    for name, found in measured.items():
        for mark, where in found:
            row, clause = parse(mark)
            evidence[row].append(Evidence(name, "passed", where, clause))
    for (row, clause), by_name in showing(marks).items():
        for name, tests in by_name.items():
            evidence[row].append(Evidence(name, *outcome(tests, recorded), clause))
    return evidence


def clause_status(evidence: list[Evidence]) -> str:
    """One word (or two): the worst that is known of what should show a clause."""
    seen = {item.outcome for item in evidence}
    if "failed" in seen:
        return "failing"
    if "passed" in seen:
        return "shown"
    return "not run" if seen else "open"


def by_clause(row: Row, evidence: list[Evidence]) -> dict[str, str]:
    """Clause -> its status, in the row's order; "" stands for a row without clauses."""
    return {
        clause: clause_status([item for item in evidence if item.clause == clause])
        for clause in row.clauses or ("",)
    }


def status(row: Row, evidence: list[Evidence]) -> str:
    """The status of a row: "part" where some of its clauses are shown and some not."""
    seen = set(by_clause(row, evidence).values())
    if "failing" in seen:
        return "failing"
    if "shown" in seen:
        return "shown" if seen == {"shown"} else "part"
    if "not run" in seen:
        return "not run"
    return "deferred" if row.deferred else "open"


def render(rows: list[Row], evidence: dict[str, list[Evidence]]) -> str:
    """The ledger as Markdown, one table to a domain."""
    lines = ["# Ledger", "", "Generated by `make ledger`; do not edit.", ""]
    lines += [summary(rows, evidence), ""]
    lines += [
        "A row is *shown* when each of its clauses has a test marked for it that",
        "passed in the last run, or a committed measurement that names it; *part* when",
        "some clauses have one and the others, listed as missing, have none; *open*",
        "when nothing shows any of it; *not run* when its tests were skipped or left",
        "out (they need a GPU, say); *deferred* when accepted but put off. The clauses",
        "of a row are those of [spec_clauses.toml](spec_clauses.toml).",
    ]
    domain = ""
    for row in rows:
        if row.id[:3] != domain:
            domain = row.id[:3]
            lines += ["", f"## {domain}", ""]
            lines += ["| Row | Capability | Status | Shown by |", "|---|---|---|---|"]
        items = evidence.get(row.id, [])
        cell = "<br>".join([*_missing(row, items), *_describe(row, items)])
        lines.append(
            f"| {row.id} | {row.title.replace('|', '/')} | {status(row, items)} "
            f"| {cell} |"
        )
    return "\n".join(lines) + "\n"


def _missing(row: Row, evidence: list[Evidence]) -> list[str]:
    """What a row that is shown in part lacks."""
    if status(row, evidence) != "part":
        return []
    lacking = [
        clause if found == "open" else f"{clause} ({found})"
        for clause, found in by_clause(row, evidence).items()
        if found != "shown"
    ]
    return [f"Missing: {'; '.join(lacking)}"]


def _describe(row: Row, evidence: list[Evidence]) -> list[str]:
    """A line to a clause: the tests marked for it, with their outcomes."""
    lines = []
    for clause in row.clauses or ("",):
        found = [item for item in evidence if item.clause == clause]
        tests = "<br>".join(
            f"`{item.name}` ({item.outcome}{', ' * bool(item.note)}{item.note})"
            for item in found
        )
        if found:
            lines.append(f"{clause}: {tests}" if clause else tests)
    return lines


def summary(rows: list[Row], evidence: dict[str, list[Evidence]]) -> str:
    """How many rows stand where, in one line."""
    count = Counter(status(row, evidence.get(row.id, [])) for row in rows)
    rest = ", ".join(
        f"{name} {count[name]}"
        for name in ("failing", "not run", "deferred", "open")
        if count[name]
    )
    return f"shown {count['shown']}, part {count['part']} of {len(rows)} ({rest})"


def main(argv: list[str] | None = None) -> int:
    """Write the ledger; 1 when a covering test failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--check", action="store_true", help="look at the marks only")
    arguments = parser.parse_args(argv)
    root = arguments.root.resolve()
    rows_path = root / "docs/internal/spec_rows.tsv"
    specification = root.parent / "shared" / "spec"
    if not arguments.check and (specification / "features.md").exists():
        write_rows(rows_path, read_specification(specification))
    rows = read_rows(rows_path, read_clauses(root / "docs/internal/spec_clauses.toml"))
    evidence = gather(root, rows)
    if arguments.check:
        return 0
    (root / "docs/internal/ledger.md").write_text(render(rows, evidence))
    print(summary(rows, evidence))
    failing = [r.id for r in rows if status(r, evidence.get(r.id, [])) == "failing"]
    if failing:
        print(f"failing: {', '.join(failing)}", file=sys.stderr)
    return 1 if failing else 0


if __name__ == "__main__":
    sys.exit(main())
