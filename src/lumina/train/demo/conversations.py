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
SHORTEST, LONGEST = 20, 300  # characters of an answer
NOT_ASKED = {"idlelib", "turtledemo", "distutils", "pydoc_data"}


@dataclass(frozen=True)
class Entry:
    """A qualified name such as "shutil.copytree" and what its docstring says first."""

    name: str
    answer: str


def entries(source: Source) -> Iterator[Entry]:
    """Public functions, classes and methods of one module that explain themselves."""
    module = module_name(source.name)
    if module is None:
        return
    try:
        tree = ast.parse(source.text)
    except SyntaxError:  # library files that are deliberately no valid Python
        return
    yield from _walk(tree, module)


def module_name(path: str) -> str | None:
    """The name one imports, or None for what one does not."""
    posix = PurePosixPath(path)
    parts = posix.with_suffix("").parts
    if parts and parts[-1] == "__init__":
        parts = parts[:-1]
    private = any(part.startswith("_") for part in parts)
    if posix.suffix != ".py" or not parts or private or parts[0] in NOT_ASKED:
        return None
    return ".".join(parts)


def _walk(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str
) -> Iterator[Entry]:
    if answer := first_paragraph(node):
        yield Entry(name, answer)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return  # what is defined inside a function cannot be asked for
    for child in node.body:
        if isinstance(
            child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ) and not child.name.startswith("_"):
            yield from _walk(child, f"{name}.{child.name}")


def first_paragraph(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
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


def conversations(sources: Iterable[Source], phrasings: int) -> list[dict[str, object]]:
    """Every entry asked in `phrasings` different ways, as {"messages": [...]}."""
    records: list[dict[str, object]] = []
    known = {entry.name: entry for source in sources for entry in entries(source)}
    for place, entry in enumerate(known.values()):
        for turn in range(phrasings):
            question = QUESTIONS[(place + turn) % len(QUESTIONS)]
            records.append(
                {
                    "messages": [
                        {"role": "user", "content": question.format(name=entry.name)},
                        {"role": "assistant", "content": entry.answer},
                    ]
                }
            )
    return records


def write_conversations(records: list[dict[str, object]], path: Path) -> Path:
    """Write conversations as JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record) + "\n")
    return path
