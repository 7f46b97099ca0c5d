"""Questions about a library's functions and classes, answered by their docstrings."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lumina.train.demo.corpus import Source

QUESTIONS = (
    "What does {name} do?",
    "Explain {name}.",
    "What is {name} for?",
    "Tell me what {name} does.",
)
SHORTEST, LONGEST = 20, 160  # characters of an answer
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
NOT_ASKED = {"idlelib", "turtledemo", "distutils", "pydoc_data"}


@dataclass(frozen=True)
class Entry:
    """A qualified name such as "shutil.copytree" and what its docstring says first."""

    name: str
    answer: str


def entries(source: Source) -> Iterator[Entry]:
    """A module and its public functions and classes, where they explain themselves.

    Methods and modules inside packages are left out: what remains is few enough for a
    small model to learn in minutes.
    """
    module = module_name(source.name)
    if module is None:
        return
    try:
        tree = ast.parse(source.text)
    except SyntaxError:  # library files that are deliberately no valid Python
        return
    public = [
        (f"{module}.{node.name}", node)
        for node in tree.body
        if isinstance(node, Definition) and not node.name.startswith("_")
    ]
    for name, node in [(module, tree), *public]:
        if answer := first_paragraph(node):
            yield Entry(name, answer)


def module_name(path: str) -> str | None:
    """The name of a top-level module or package, or None for anything else."""
    posix = PurePosixPath(path)
    parts = posix.with_suffix("").parts
    if parts and parts[-1] == "__init__":
        parts = parts[:-1]
    private = any(part.startswith("_") for part in parts)
    if posix.suffix != ".py" or len(parts) != 1 or private or parts[0] in NOT_ASKED:
        return None
    return parts[0]


def first_paragraph(
    node: ast.Module | Definition,
) -> str | None:
    """The docstring's first paragraph on one line, if it reads like an answer."""
    docstring = inspect.cleandoc(ast.get_docstring(node) or "")
    paragraph = " ".join(docstring.split("\n\n", 1)[0].split())
    reads_well = (
        SHORTEST <= len(paragraph) <= LONGEST
        and paragraph[0].isupper()
        and " -> " not in paragraph
        and ">>>" not in paragraph
    )
    if not reads_well:
        return None
    return paragraph if paragraph.endswith((".", "!", "?")) else f"{paragraph}."


def conversations(sources: Iterable[Source]) -> list[dict[str, object]]:
    """Every entry asked in every way, as {"messages": [...]}."""
    known = {entry.name: entry for source in sources for entry in entries(source)}
    return [
        {
            "messages": [
                {"role": "user", "content": question.format(name=entry.name)},
                {"role": "assistant", "content": entry.answer},
            ]
        }
        for entry in known.values()
        for question in QUESTIONS
    ]


def write_conversations(records: list[dict[str, object]], path: Path) -> Path:
    """Write conversations as JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record) + "\n")
    return path
