"""What a make of tokenizer declares, and the table of all makes."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers

from lumina.data.files import no_permission
from lumina.errors import LuminaError


@dataclass(frozen=True)
class Stored:
    """A vocabulary as it was read from its file.

    Attributes:
        backend: text to ids. What it puts before a text is its post-processor.
        folder: holds files that say more about the tokenizer, such as
            tokenizer_config.json. A file that stands for itself is named instead, and
            nothing is found in it.
        said: what the file itself says, with the keys of tokenizer_config.json. Files
            in `folder` have precedence.
        notes: what was assumed in reading it, in plain words.
    """

    backend: tokenizers.Tokenizer
    folder: Path
    said: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Make:
    """One way in which a vocabulary is stored.

    Attributes:
        name: short, for tables.
        files: what its files are called, in words, for advice.
        find: the file of this make in a folder, or None. It raises E005 where there
            are several.
        claims: whether a file is of this make. It may read the beginning of the file.
        read: reads the file.
        named: the vocabulary that a name means which is no path, or None.
    """

    name: str
    files: str
    find: Callable[[Path], Path | None]
    claims: Callable[[Path], bool]
    read: Callable[[Path], Stored]
    named: Callable[[str], Stored | None] = lambda name: None


# In the order in which they are asked: a folder that holds files of several makes is
# read as the first of them.
_MODULES = ("hugging_face", "sentence_piece", "rank_file", "gguf", "merge_lists", "hub")


def makes() -> tuple[Make, ...]:
    """All makes, in the order in which they are asked."""
    here = __name__.rpartition(".")[0]
    found = [importlib.import_module(f"{here}.{name}").MAKE for name in _MODULES]
    return tuple(found)


def read_stored(name: str | os.PathLike[str]) -> Stored:
    """Read a vocabulary from a file, a folder, a run, or by its name.

    Args:
        name: a path, or a name that one of the makes knows.

    Raises:
        LuminaError: E104 nothing of this name, E106 no permission, E107 the hub cannot
            be reached, E101 and E103 not a vocabulary.
    """
    path = Path(name).expanduser()
    try:
        if path.is_file():
            return _read_file(path)
        exists = path.exists()
        for make in makes() if exists else ():
            for folder in (path, path / "tokenizer"):
                if (file := make.find(folder)) is not None:
                    return make.read(file)
    except PermissionError as error:
        raise no_permission(error.filename or path) from None
    if exists:
        raise LuminaError(
            "E104",
            f"{path}: no tokenizer.json in this folder, and no other vocabulary",
            f"name a folder that holds one of: {_files()}",
        )
    for make in makes():
        if (stored := make.named(os.fspath(name))) is not None:
            return stored
    raise LuminaError(
        "E104",
        f"{path}: there is no tokenizer at this path",
        f"give one of: {_files()}; the folder that holds it; or hf:OWNER/NAME, a name "
        "of the Hugging Face hub",
    )


def _read_file(path: Path) -> Stored:
    for make in makes():
        if make.claims(path):
            return make.read(path)
    raise broken(path, f"this is none of: {_files()}")


def _files() -> str:
    return ", ".join(make.files for make in makes() if make.files)


def only_file(folder: Path, pattern: str) -> Path | None:
    """The only file in a folder that matches a pattern, or None.

    Raises:
        LuminaError: E005 where several files match.
    """
    found = sorted(path for path in folder.glob(pattern) if path.is_file())
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise LuminaError(
            "E005",
            f"{folder}: several vocabularies: {names}",
            f"name one of them, as in --tokenizer {found[0]}",
        )
    return found[0] if found else None


def broken(path: Path, what: str) -> LuminaError:
    """The error for a file whose content is not what its make demands."""
    return LuminaError("E101", f"{path}: {what}", "fetch the file again")
