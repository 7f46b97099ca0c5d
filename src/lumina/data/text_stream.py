"""Ids that arrive one at a time -> text, never half a character of it."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import Protocol

_UTF8 = codecs.getincrementaldecoder("utf-8")

_LONGEST = 4
"""Bytes of a character, at most, and so tokens."""


class Decoder(Protocol):
    """The part of a tokenizer that makes text of ids."""

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids."""

    def token_bytes(self, token: int) -> bytes | None:
        """The bytes that a token stands for; None where it has none of its own."""

    def without_begin(self, ids: Sequence[int]) -> list[int]:
        """The ids of a text without the tokens that come before every text."""


class TextStream:
    """Decodes ids as they come and never gives out half a character.

    The pieces, with `flush` at the end, join to what the ids add to the text of the
    prompt: `decode` of both, without `decode` of the prompt. Many decoders remove the
    space before a first token, so ids decoded without the prompt would lose theirs.

    Bytes that can be no part of a character become U+FFFD as soon as that is certain,
    as many as Unicode recommends (chapter 3.9, one for each longest part that could
    have begun a character). Where the tokens of a vocabulary are bytes only in part
    (`byte_fallback`), `decode` gives one for each byte of such a stretch, and for the
    sound characters within it, too: there the two differ.

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
        self._bytes = _UTF8("replace")
        spelled = [tokenizer.token_bytes(token) for token in self._ids[-_LONGEST:]]
        if None not in spelled:  # the prompt may end in the middle of a character
            self._bytes.decode(b"".join(one or b"" for one in spelled))

    def push(self, token: int) -> str:
        """The text that became certain with `token`; often empty, never half."""
        spelled = self._tokenizer.token_bytes(token)
        if spelled is None:
            self._ids.append(token)
            return self._end_bytes() + self._take(force=False)
        before = self._take(force=True)
        self._ids = [*self._ids[-_LONGEST:], token]
        self._given = len(self._ids)
        return before + self._bytes.decode(spelled)

    def flush(self, *, cut_off: bool = False) -> str:
        """What is left at the end.

        Args:
            cut_off: the text does not end here, it was broken off: the beginning of a
                character is left out. Else it is a fault, and becomes U+FFFD.
        """
        if not cut_off:
            return self._end_bytes() + self._take(force=True)
        self._bytes.reset()
        return self._take(force=True)

    def _end_bytes(self) -> str:
        """No byte follows: what of a character is there is none."""
        text = self._bytes.decode(b"", final=True)
        self._bytes.reset()
        return text

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
