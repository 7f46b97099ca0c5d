"""The vocabulary in a GGUF file, as llama.cpp's converters write it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import processors

from lumina.data.tokenizer_makes.byte_bpe import add_tokens, byte_letters, byte_level
from lumina.data.tokenizer_makes.cuts import WHOLE_WORDS, cuts, known_ways, way_of
from lumina.data.tokenizer_makes.gguf_metadata import read_metadata
from lumina.data.tokenizer_makes.make import Make, Stored, broken, only_file
from lumina.data.tokenizer_makes.pieces import (
    CONTROL,
    UNKNOWN,
    USER_DEFINED,
    Pieces,
    backend_of,
)
from lumina.errors import LuminaError

_PREFIX = "tokenizer.ggml."
_TEMPLATE = "tokenizer.chat_template"
_ARCHITECTURE = "general.architecture"


def _read(path: Path) -> Stored:
    try:
        found = read_metadata(
            path,
            lambda key: key.startswith((_PREFIX, _TEMPLATE)) or key == _ARCHITECTURE,
        )
        return _stored(path, found)
    except (ValueError, TypeError) as error:
        raise broken(path, f"not a GGUF file with a vocabulary: {error}") from None


def _stored(path: Path, found: dict[str, Any]) -> Stored:
    model = found.get(_PREFIX + "model")
    if model not in _MODELS:
        raise LuminaError(
            "E101",
            f"{path}: a vocabulary of the type {model!r} is not read here "
            f"({', '.join(_MODELS)} are)",
            "give the model's tokenizer.json",
        )
    tokens = found.get(_PREFIX + "tokens")
    if not isinstance(tokens, list) or not tokens:
        raise ValueError("it has no list of tokens")
    backend, begins, notes = _MODELS[model](path, found, tokens)
    said: dict[str, Any] = {"bos_token": None, "eos_token": None}
    for name, key in (
        ("bos_token", "bos_token_id"),
        ("eos_token", "eos_token_id"),
        ("pad_token", "padding_token_id"),
        ("unk_token", "unknown_token_id"),
    ):
        index = found.get(_PREFIX + key)
        if isinstance(index, int):
            if not 0 <= index < len(tokens):
                raise ValueError(f"{key} is {index}, and there are {len(tokens):,}")
            said[name] = tokens[index]
    if isinstance(found.get(_TEMPLATE), str):
        said["chat_template"] = found[_TEMPLATE]
    bos = said["bos_token"]
    if bos is not None and found.get(_PREFIX + "add_bos_token", begins):
        backend.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"], special_tokens=[(bos, tokens.index(bos))]
        )
    return Stored(backend, path, said, notes)


_Made = tuple[tokenizers.Tokenizer, bool, tuple[str, ...]]
"""The backend, whether texts begin with a token if the file does not say, notes."""


def _byte_level(path: Path, found: dict[str, Any], tokens: list[str]) -> _Made:
    name = found.get(_PREFIX + "pre")
    if name is None and found.get(_ARCHITECTURE) == "gptneox":
        name = "gpt-2"
    way = way_of(str(name))
    if way is None:
        what = "no type" if name is None else f"the type {name!r}"
        raise LuminaError(
            "E101",
            f"{path}: {what} of cutting texts into words is named; known are "
            + ", ".join(known_ways()),
            "give the model's tokenizer.json",
        )
    ids = {token: index for index, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        raise ValueError("a token occurs twice")
    merges = []
    for merge in found.get(_PREFIX + "merges") or ():
        left, _, right = merge.partition(" ")
        if not {left, right, left + right} <= ids.keys():
            raise ValueError(f"the merge {merge!r} is none of tokens")
        merges.append((left, right))
    backend = byte_level(ids, merges, cuts(way), whole_words=name in WHOLE_WORDS)
    kinds = _kinds(found, len(tokens))
    add_tokens(
        backend,
        [
            t
            for t, kind in zip(tokens, kinds, strict=True)
            if kind in (UNKNOWN, CONTROL)
        ],
        [t for t, kind in zip(tokens, kinds, strict=True) if kind == USER_DEFINED],
    )
    notes = [f"the vocabulary of a GGUF file, words cut as {name}"]
    used = {*range(0xF5)} - {0xC0, 0xC1}  # UTF-8 has no others
    letters = byte_letters()
    if lacking := [
        f"0x{byte:02X}" for byte in sorted(used) if letters[byte] not in ids
    ]:
        notes.append(
            f"it has no token for the byte {', '.join(lacking)}: characters with it "
            "are left out of texts"
        )
    return backend, False, tuple(notes)


def _kinds(found: dict[str, Any], count: int) -> list[int]:
    kinds = found.get(_PREFIX + "token_type") or [1] * count
    if len(kinds) != count:
        raise ValueError(f"{len(kinds):,} types of {count:,} tokens")
    return list(kinds)


def _pieces(path: Path, found: dict[str, Any], tokens: list[str]) -> _Made:
    scores = found.get(_PREFIX + "scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise ValueError("there is not one score for each token")
    pieces = Pieces(
        unigram=False,
        texts=tokens,
        scores=scores,
        kinds=_kinds(found, len(tokens)),
        byte_fallback=True,
        prefix=bool(found.get(_PREFIX + "add_space_prefix", True)),
    )
    return backend_of(pieces), True, ("the SentencePiece vocabulary of a GGUF file",)


_MODELS: dict[str, Callable[[Path, dict[str, Any], list[str]], _Made]] = {
    "gpt2": _byte_level,
    "llama": _pieces,
}


def _claims(path: Path) -> bool:
    with open(path, "rb") as handle:
        return handle.read(4) == b"GGUF"


MAKE = Make(
    "GGUF",
    "a GGUF file",
    find=lambda folder: only_file(folder, "*.gguf"),
    claims=_claims,
    read=_read,
)
