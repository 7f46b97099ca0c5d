"""Ids that arrive one at a time -> text, never half a character of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol


class Decoder(Protocol):
    """The part of a tokenizer that makes text of ids."""

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids."""

    def without_begin(self, ids: Sequence[int]) -> list[int]:
        """The ids of a text without the tokens that come before every text."""


class TextStream:
    """Decodes ids as they come and never gives out half a character.

    The pieces, with `flush` at the end, join to what the ids add to the text of the
    prompt: `decode` of both, without `decode` of the prompt. Many decoders remove the
    space before a first token, so ids decoded without the prompt would lose theirs.

    Args:
        tokenizer: what decodes.
        prompt: the ids before the first. The begin token is no text: after it alone,
            the ids are the beginning of a text.
    """

    def __init__(self, tokenizer: Decoder, prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        # Of the last text given out (at first, the prompt's), and what is pending.
        self._ids = tokenizer.without_begin(prompt)
        self._given = len(self._ids)  # how many of them were given out

    def push(self, token: int) -> str:
        """The text that became certain with `token`; often empty, never half."""
        self._ids.append(token)
        return self._take(force=False)

    def flush(self) -> str:
        """What is left at the end; an unfinished character becomes U+FFFD."""
        return self._take(force=True)

    def _take(self, force: bool) -> str:
        # Decoded with the tokens before, since some decoders treat a first token
        # differently; only what comes after them is new.
        if self._given == len(self._ids):
            return ""
        decode = self._tokenizer.decode
        before = decode(self._ids[: self._given])
        text = decode(self._ids)
        if text.endswith("\ufffd") and not force:
            return ""
        self._ids = self._ids[self._given :]
        self._given = len(self._ids)
        return text[len(before) :]
