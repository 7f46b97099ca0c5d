"""A .model file of SentencePiece.

The numbers below are those of the fields in sentencepiece_model.proto of
github.com/google/sentencepiece.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from lumina.data.tokenizer_makes.make import Make, Stored, broken, only_file
from lumina.data.tokenizer_makes.pieces import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    Pieces,
    backend_of,
    spelled_bytes,
)
from lumina.data.tokenizer_makes.protobuf import fields
from lumina.errors import LuminaError

_MOST_BYTES = 2**26
"""A larger file is no vocabulary."""

_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_TEXT, _SCORE, _KIND = 1, 2, 3
_MODEL_TYPE, _SUFFIX_SPACE, _BYTE_FALLBACK = 3, 24, 35
_BOS_ID, _EOS_ID, _PAD_ID = 41, 42, 43
_CHARSMAP, _PREFIX, _JOINS, _ESCAPES = 2, 3, 4, 5
_MODELS = {1: "Unigram", 2: "BPE", 3: "Word", 4: "Char"}


def _read(path: Path) -> Stored:
    size = path.stat().st_size
    if size > _MOST_BYTES:
        raise broken(path, f"{size:,} bytes are too many for a vocabulary")
    try:
        pieces, trainer = _parse(path.read_bytes())
        backend = backend_of(pieces)
    except (ValueError, TypeError, AttributeError) as error:
        raise broken(path, f"not a model of SentencePiece: {error}") from None
    said: dict[str, Any] = {"bos_token": None, "eos_token": None}
    for name, number, usual in (
        ("bos_token", _BOS_ID, 1),
        ("eos_token", _EOS_ID, 2),
        ("pad_token", _PAD_ID, -1),
    ):
        index = _signed(trainer.get(number, usual))
        if 0 <= index < len(pieces.texts) and pieces.kinds[index] == CONTROL:
            said[name] = pieces.texts[index]
    if unknown := pieces.of_kind(UNKNOWN):
        said["unk_token"] = unknown[0]
    return Stored(backend, path.parent, said, _notes(pieces))


def _notes(pieces: Pieces) -> tuple[str, ...]:
    notes = ["a model of SentencePiece, " + ("Unigram" if pieces.unigram else "BPE")]
    if pieces.charsmap:
        notes.append(
            "it normalises texts: where a letter and its accent are two characters, "
            "ids can differ from SentencePiece's own"
        )
    if pieces.unigram:
        notes.append(
            "it chooses the likeliest pieces: where two choices are equally likely, "
            "ids can differ from SentencePiece's own"
        )
    return tuple(notes)


def _signed(value: Any) -> int:
    """A negative int32 has ten bytes in the file: two to the 64th more."""
    return int(value) - 2**64 if value >= 2**63 else int(value)


def _parse(data: bytes) -> tuple[Pieces, dict[int, Any]]:
    texts, scores, kinds = [], [], []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    for number, value in fields(data):
        if number == _PIECES:
            piece = dict(fields(_bytes(value)))
            texts.append(_bytes(piece.get(_TEXT, b"")).decode())
            scores.append(float(piece.get(_SCORE, 0.0)))
            kinds.append(int(piece.get(_KIND, 1)))
        elif number == _TRAINER:
            trainer = dict(fields(_bytes(value)))
        elif number == _NORMALIZER:
            normalizer = dict(fields(_bytes(value)))
    if not texts:
        raise ValueError("it has no pieces")
    if not all(map(math.isfinite, scores)):
        raise ValueError("a score is no number")
    if not all(NORMAL <= kind <= BYTE for kind in kinds):
        raise ValueError("a piece is of an unknown kind")
    _refuse_others(trainer, normalizer, kinds)
    if set(spelled_bytes()) - set(texts) and trainer.get(_BYTE_FALLBACK):
        raise ValueError("it falls back to bytes, but has no piece for each of them")
    pieces = Pieces(
        unigram=trainer.get(_MODEL_TYPE, 1) == 1,
        texts=texts,
        scores=scores,
        kinds=kinds,
        byte_fallback=bool(trainer.get(_BYTE_FALLBACK, 0)),
        charsmap=_bytes(normalizer.get(_CHARSMAP, b"")),
        prefix=bool(normalizer.get(_PREFIX, 1)),
        joins_spaces=bool(normalizer.get(_JOINS, 1)),
    )
    return pieces, trainer


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number stands where a text is expected")
    return value


def _refuse_others(
    trainer: dict[int, Any], normalizer: dict[int, Any], kinds: list[int]
) -> None:
    """Refuse what would not give the same ids.

    Raises:
        LuminaError: E101.
    """
    kind = trainer.get(_MODEL_TYPE, 1)
    reason = None
    if kind not in (1, 2):
        reason = f"models of the type {_MODELS.get(kind, kind)}"
    elif trainer.get(_SUFFIX_SPACE):
        reason = "models that write the space behind a word"
    elif not normalizer.get(_ESCAPES, 1):
        reason = "models that leave spaces as they are"
    elif UNUSED in kinds:
        reason = "models with unused pieces"
    if reason is not None:
        raise LuminaError(
            "E101",
            f"{reason} of SentencePiece are not read here",
            "give the model's tokenizer.json",
        )


def _claims(path: Path) -> bool:
    with open(path, "rb") as handle:
        return handle.read(1) == b"\n" and ".model" in path.name


MAKE = Make(
    "SentencePiece",
    "a model of SentencePiece (tokenizer.model)",
    find=lambda folder: (
        folder / "tokenizer.model"
        if (folder / "tokenizer.model").is_file()
        else only_file(folder, "*.model")
    ),
    claims=_claims,
    read=_read,
)
