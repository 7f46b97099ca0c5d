"""The table of faults that the tests cause, from the declarations beside them.

    python tools/faults.py            print it
    python tools/faults.py --write    put it into docs/reliability.md
    python tools/faults.py --check    fail where the page has another

A test declares what it causes with `@mechanism(...)` (tests/mechanisms.py). They are
read from the source, so that nothing is imported or run.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- made by tools/faults.py -->", "<!-- end of what is made -->"


@dataclass(frozen=True)
class Declaration:
    """One mechanism, as its test declares it.

    Attributes:
        name: in a few words.
        component: what fails.
        failure: how.
        recovery: how it is got over.
        expected: what the test asserts after it.
        test: the test, as FILE::NAME below tests/.
        marks: names of the marks of the test.
        real: a real process, file or device is acted upon.
        case: the id of the parameters that cause it; None: all do.
        seconds: the limit of the test; None: the usual one.
    """

    name: str
    component: str
    failure: str
    recovery: str
    expected: str
    test: str
    marks: tuple[str, ...]
    real: bool = True
    case: str | None = None
    seconds: int | None = None


def declarations(folder: Path = TESTS) -> list[Declaration]:
    """All of them, by file and place."""
    return [
        declaration
        for path in sorted(folder.rglob("test_*.py"))
        if "@mechanism(" in (text := path.read_text(encoding="utf-8"))
        for declaration in _declared_in(ast.parse(text), str(path.relative_to(folder)))
    ]


def _declared_in(tree: ast.Module, file: str) -> Iterator[Declaration]:
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef):
            continue
        marks = tuple(name for one in node.decorator_list if (name := _mark(one)))
        for one in node.decorator_list:
            if isinstance(one, ast.Call) and ast.unparse(one.func) == "mechanism":
                given = {str(k.arg): ast.literal_eval(k.value) for k in one.keywords}
                yield Declaration(
                    name=ast.literal_eval(one.args[0]),
                    test=f"{file}::{node.name}",
                    marks=marks,
                    **given,
                )


def _mark(node: ast.expr) -> str:
    """The name of a mark of pytest; empty for another decorator."""
    words = ast.unparse(node).partition("(")[0]
    return words.removeprefix("pytest.mark.") if "pytest.mark." in words else ""


def table(found: list[Declaration]) -> str:
    """The table in Markdown, by component."""
    real = sum(one.real for one in found)
    lines = [
        f"{len(found)} mechanisms, {real} of them acting on a real process, file or "
        "device.",
        "",
        "| Component | Failure | Real | Expected recovery | Kind of recovery | Test |",
        "|---|---|---|---|---|---|",
    ]
    for one in sorted(found, key=lambda d: d.component):
        test = one.test + (f"[{one.case}]" if one.case else "")
        lines.append(
            f"| {one.component} | {one.name}: {one.failure} "
            f"| {'yes' if one.real else 'injected'} | {one.expected} "
            f"| {one.recovery} | `{test}` |"
        )
    return "\n".join(lines)


def page(found: list[Declaration]) -> str:
    """The page with the table in its place."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    return f"{before}{BEGIN}\n{table(found)}\n{END}{rest.split(END)[1]}"


def main() -> int:
    """Print the table, write it, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="into the page")
    parser.add_argument("--check", action="store_true", help="fail where it differs")
    arguments = parser.parse_args()
    found = declarations()
    if arguments.check:
        if PAGE.read_text(encoding="utf-8") == page(found):
            return 0
        print("docs/reliability.md: run python tools/faults.py --write")
        return 1
    if arguments.write:
        PAGE.write_text(page(found), encoding="utf-8")
    else:
        print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
