"""The bytes that single tokens stand for, where a vocabulary is made of bytes."""

from __future__ import annotations

import json
import re
from functools import cache

import tokenizers

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
"""A token of one byte, as SentencePiece names it."""


class TokenBytes:
    """Finds the bytes of a token.

    Of a byte-level vocabulary (GPT-2 and most after it) every token has some. With
    `byte_fallback` (SentencePiece) only the 256 tokens of one byte do: what the others
    spell depends on what is before them.

    Args:
        backend: stays as it is.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend
        kinds = _decoders(backend)
        self._all = kinds == ["ByteLevel"]
        self._some = "ByteFallback" in kinds

    def of(self, token: int) -> bytes | None:
        """The bytes of a token; None where it has no bytes of its own.

        An id that is no token of the vocabulary spells nothing.
        """
        if not (self._all or self._some):
            return None
        piece = self._backend.id_to_token(token)
        if self._all:
            return b"" if piece is None else _spelled(piece)
        found = _BYTE.fullmatch(piece or "")
        return bytes([int(found[1], 16)]) if found else None


def _decoders(backend: tokenizers.Tokenizer) -> list[str]:
    """What makes text of tokens, in order."""
    if backend.decoder is None:
        return []
    state = json.loads(backend.decoder.__getstate__())
    return [part["type"] for part in state.get("decoders", [state])]


def _spelled(piece: str) -> bytes:
    """The bytes of a byte-level token; of one that is none, those of its text."""
    table = _byte_of()
    try:
        return bytes(table[character] for character in piece)
    except KeyError:
        return piece.encode()


@cache
def _byte_of() -> dict[str, int]:
    """GPT-2's character for each byte, backwards.

    Bytes that can be printed stand for themselves, the others for the characters from
    256 on. Source: `bytes_to_unicode` in https://github.com/openai/gpt-2, encoder.py.
    """
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printed]
    table = {chr(byte): byte for byte in printed}
    return table | {chr(256 + number): byte for number, byte in enumerate(others)}
