"""A `tokenizer.json` of the tokenizers library."""

from __future__ import annotations

from pathlib import Path

import tokenizers

from lumina.data.tokenizer_makes.make import Make, Stored
from lumina.errors import LuminaError


def _find(folder: Path) -> Path | None:
    file = folder / "tokenizer.json"
    return file if file.is_file() else None


def _read(path: Path) -> Stored:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise LuminaError(
            "E103", f"{path}: not UTF-8", "fetch or make the tokenizer again"
        ) from None
    try:
        backend = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exceptions
        raise LuminaError(
            "E101",
            f"{path}: not a tokenizer: {error}",
            "give a tokenizer.json as the tokenizers library writes it",
        ) from None
    return Stored(backend, path.parent)


MAKE = Make(
    "tokenizer.json",
    "tokenizer.json",
    find=_find,
    claims=lambda path: path.suffix == ".json",
    read=_read,
)
