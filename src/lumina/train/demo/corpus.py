"""Text that every Python brings along: its library's sources and its manual's topics.

Nothing is imported or run; files are read and parsed. The order, the choice and the
held-out split depend on file names alone, so the same Python gives the same corpus.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lumina.errors import LuminaError

LEAST_BYTES = 2_000_000
MOST_BYTES = 12_000_000
HELD_OUT_BYTES = 400_000
LARGEST_HELD_OUT = 120_000  # so that no single file is the held-out text

# Tests and machine-made tables teach little; installed packages are not ours to assume.
LEFT_OUT = {
    "test",
    "tests",
    "idle_test",
    "site-packages",
    "dist-packages",
    "__pycache__",
    "encodings",
    "lib2to3",
    "ensurepip",
}
TOPICS = Path("pydoc_data/topics.py")


@dataclass(frozen=True)
class Source:
    """One document: where it came from (relative, as posix) and its text."""

    name: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """Documents to learn from and documents held out; no file is in both."""

    train: tuple[Source, ...]
    held_out: tuple[Source, ...]

    @property
    def train_bytes(self) -> int:
        """Size of the training part in bytes of UTF-8."""
        return sum(len(source.text.encode()) for source in self.train)

    @property
    def held_out_text(self) -> str:
        """The held-out documents, one after another."""
        return "\n".join(source.text for source in self.held_out)


def library_folder() -> Path:
    """The folder of this Python's standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def collect(
    folder: Path | None = None,
    *,
    most_bytes: int = MOST_BYTES,
    held_out_bytes: int = HELD_OUT_BYTES,
    least_bytes: int = LEAST_BYTES,
) -> Corpus:
    """Read the library and split it by document.

    Args:
        folder: where the library is; default: this Python's.
        most_bytes: training text beyond this is left out.
        held_out_bytes: the held-out part ends with the document that reaches this.
        least_bytes: less text than this is an error.

    Raises:
        LuminaError: E105 when the library has too little text (zipped or stripped).
    """
    folder = folder or library_folder()
    documents = sorted(_documents(folder), key=lambda source: _digest(source.name))
    total = sum(len(source.text) for source in documents)
    if total < least_bytes:
        raise LuminaError(
            "E105",
            f"the Python library in {folder} holds only {total:,} bytes of source text",
            "use a Python installed with its library as .py files",
        )
    train: list[Source] = []
    held_out: list[Source] = []
    train_size = held_out_size = 0
    for source in documents:
        size = len(source.text.encode())
        if held_out_size < held_out_bytes and size <= LARGEST_HELD_OUT:
            held_out.append(source)
            held_out_size += size
        elif train_size + size <= most_bytes:
            train.append(source)
            train_size += size
    return Corpus(tuple(train), tuple(held_out))


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _documents(folder: Path) -> Iterator[Source]:
    for path in library_files(folder):
        name = path.relative_to(folder).as_posix()
        if text := read_source(path):
            yield Source(name, text)
    yield from _topics(folder / TOPICS)


def library_files(folder: Path) -> list[Path]:
    """The library's own modules, in name order."""
    return sorted(
        path
        for path in folder.rglob("*.py")
        if not LEFT_OUT.intersection(path.relative_to(folder).parts)
        and not path.name.startswith("_sysconfigdata")
        and path.relative_to(folder) != TOPICS
    )


def read_source(path: Path) -> str:
    """A file's text, empty when it is unreadable or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _topics(path: Path) -> Iterator[Source]:
    """The language reference that `help()` shows: a dictionary of texts in a module."""
    if not path.exists():
        return
    for node in ast.parse(read_source(path)).body:
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Dict):
            continue
        for topic, text in ast.literal_eval(node.value).items():
            yield Source(f"topics/{topic}", text.strip())


def write_texts(sources: tuple[Source, ...], path: Path) -> Path:
    """Write documents as JSON lines with a "text" field."""
    with path.open("w", encoding="utf-8") as file:
        for source in sources:
            file.write(json.dumps({"text": source.text}) + "\n")
    return path
