"""Pages of the documentation that are made from Lumina's own tables, a file each.

A file has `page()`, which gives its Markdown; the page is called like the file.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Sequence


def pages() -> dict[str, str]:
    """The Markdown of every page, by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {
        name: importlib.import_module(f"{__name__}.{name}").page() for name in names
    }


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown; nothing in a cell can end it."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(map(cell, row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def cell(value: object) -> str:
    """One cell: a line, and no HTML."""
    text = " ".join(str(value).split()).replace("|", "\\|")
    return text.replace("<", "&lt;").replace(">", "&gt;")


def code(text: object) -> str:
    """A name as code."""
    return f"`{text}`"
