"""How far each kind of model, and each seam, reaches into the source.

    python tools/seams.py            print the two tables
    python tools/seams.py --write    put them into docs/architecture.md too

The first table counts, for each kind of model, the files of src/lumina whose code names
it: an identifier such as `moe`, `use_moe`, `moe_top_k` or `MoeSpec`, or a text such as
"moe.counts". Comments and docstrings do not count. A kind's own files are those whose
path says so (`OWN`). The second table counts the files that one more entry of each seam
needs: those of the toy in tests/seams/ that adds one from outside the package.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "lumina"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- counted by tools/seams.py -->", "<!-- end of what is counted -->"

KINDS = {
    "experts": r"(?i:\.?(use_)?moe|\.?moe_\w+|moespec|moe\..*)",
    "depths": r"(?i:\.?(use_)?mod|\.?mod_\w+|modspec|mod\..*)",
    "recursions": r"(?i:\.?(use_)?mor|\.?mor_\w+|morspec|mor\..*)",
    "reasoners": r"(?i:\.?(use_)?hrm|\.?hrm_\w+|hrmspec|hrm\..*)",
    "several tasks": r"\.tasks|TaskSpec|\.?task_(weights|balancing|sampling)\w*",
    "registered parts": (
        r"(spec|config|settings|saved|plan)\.parts|PartsSpec|part_options"
        r"|(block|attention|feedforward)_type"
    ),
}
"""Kind -> what an identifier or a short text is that names it."""

OWN = {
    "experts": r"moe|expert",
    "depths": r"/mod\.|depth",
    "recursions": r"/mor\.|recursion",
    "reasoners": r"hrm|reason|puzzle|thinking|halting|arc|sudoku|waiting",
    "several tasks": r"task",
    "registered parts": r"parts|registry",
}
"""Kind -> what the path of a file of its own holds."""

SEAMS = {
    "kind of model": "kind",
    "kind of block": "block",
    "tensor": "tensors",
    "optimizer": "optimizer",
    "source of data": "data_source",
    "control": "control",
    "rule": "rule",
    "feature": "feature",
    "way of being parallel": "parallel",
    "evaluation task": "evaluation_task",
}
"""Seam -> the name of its toy: tests/seams/toy_NAME*.py."""


def named(path: Path) -> Iterator[str]:
    """Identifiers and short texts of a file, no docstrings; `a.b` as `.b` and `a.b`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name, value=owner):
                yield f".{name}"
                # With what it belongs to: many things have parts.
                match owner:
                    case ast.Attribute(attr=of) | ast.Name(id=of):
                        yield f"{of}.{name}"
            case ast.Name(id=name) | ast.arg(arg=name):
                yield name
            case ast.keyword(arg=str(name)) | ast.alias(name=name):
                yield name.rpartition(".")[2]
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                yield name
            case ast.Constant(value=str(text)) if not re.search(r"\s", text):
                yield text


def files_naming(kind: str) -> tuple[list[str], list[str]]:
    """(files of the kind's own, other files) that name it, below src/lumina."""
    own, other = [], []
    for path in sorted(SOURCE.rglob("*.py")):
        if any(re.fullmatch(KINDS[kind], name) for name in named(path)):
            place = f"/{path.relative_to(SOURCE)}"
            (own if re.search(OWN[kind], place) else other).append(place[1:])
    return own, other


def tables(listed: bool = False) -> str:
    """Both tables in Markdown."""
    lines = ["| Kind of model | Its own files | Other files that name it |"]
    lines.append("|---|---|---|")
    for kind in KINDS:
        own, other = files_naming(kind)
        names = f": {', '.join(other)}" if listed else ""
        lines.append(f"| {kind} | {len(own)} | {len(other)}{names} |")
    lines += ["", "| One more | Files it needs | Shown by |", "|---|---|---|"]
    for seam, name in SEAMS.items():
        folder = ROOT / "tests" / "seams"
        # A toy is a file beside its test, or a text that the test writes as one.
        toys = sorted(folder.glob(f"toy_{name}*.py"))
        toys = toys or sorted(folder.glob(f"test_{name}.py"))
        shown = ", ".join(f"`tests/seams/{toy.name}`" for toy in toys) or "nothing"
        lines.append(f"| {seam} | {len(toys) or 'not known'} | {shown} |")
    return "\n".join(lines)


def main() -> int:
    """Print the tables; write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="into the page as well")
    parser.add_argument("--list", action="store_true", help="name the other files")
    arguments = parser.parse_args()
    print(tables(arguments.list))
    if arguments.write:
        text = PAGE.read_text(encoding="utf-8")
        before, rest = text.split(BEGIN)
        after = rest.split(END)[1]
        PAGE.write_text(f"{before}{BEGIN}\n{tables()}\n{END}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
