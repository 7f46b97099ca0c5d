"""Text of ids that come one at a time: characters are whole, faults are replaced."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models

from lumina.data.text_stream import TextStream
from lumina.data.token_bytes import TokenBytes
from lumina.data.tokenizer import Tokenizer

LOST = "\ufffd"


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    return Tokenizer.train(["def copy(x):\n    return [x] # It's ete\n" * 20], 300)


def ids_of(tokenizer: Tokenizer, data: bytes) -> list[int]:
    """The tokens of single bytes."""
    single = {tokenizer.token_bytes(i): i for i in range(tokenizer.vocab_size)}
    return [single[bytes([byte])] for byte in data]


def test_bytes_that_are_no_character_are_replaced_as_soon_as_that_is_certain(
    small: Tokenizer,
) -> None:
    def pieces(data: bytes) -> list[str]:
        stream = small.stream()
        return [*map(stream.push, ids_of(small, data)), stream.flush()]

    assert pieces(b"\x80\x80a") == [LOST, LOST, "a", ""]
    assert pieces(b"\xe2\x82a") == ["", "", LOST + "a", ""]
    assert pieces(b"\xe2\x82\xac") == ["", "", "\u20ac", ""]
    assert pieces(b"\xf0\x9f\xe2\x82\xac") == ["", "", LOST, "", "\u20ac", ""]
    assert pieces(b"\xc3\xff") == ["", LOST * 2, ""]
    assert pieces(b"a\xf0\x9f") == ["a", "", "", LOST]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=24))
def test_what_is_replaced_is_what_the_decoder_of_whole_texts_replaces(
    small: Tokenizer, data: bytes
) -> None:
    ids = ids_of(small, data)
    text = data.decode("utf-8", "replace")
    assert small.decode_after([], ids) == small.decode(ids) == text


def test_half_a_character_is_left_out_where_a_text_was_cut_off(
    small: Tokenizer,
) -> None:
    ids = small.encode("a\U0001f389")
    assert small.decode_after([], ids[:-1], cut_off=True) == "a"
    assert small.decode_after([], ids[:-1]) == "a" + LOST
    assert small.decode_after([], ids, cut_off=True) == "a\U0001f389"
    wrong = ids_of(small, b"a\xff\xf0\x9f")
    assert small.decode_after([], wrong, cut_off=True) == "a" + LOST


def test_an_answer_may_complete_the_last_character_of_its_prompt(
    small: Tokenizer,
) -> None:
    ids = ids_of(small, "\u20ac!".encode())
    assert small.decode_after(ids[:2], ids[2:]) == "\u20ac!"
    assert small.decode_after(ids[:1], ids[3:]) == LOST + "!"


def test_ids_beyond_the_vocabulary_say_nothing(small: Tokenizer) -> None:
    assert small.decode_after([], [*small.encode("a"), 10**6]) == "a"


class Fallback:
    """A vocabulary as SentencePiece's: words, and 256 tokens of one byte each."""

    def __init__(self) -> None:
        pieces = [*(f"<0x{byte:02X}>" for byte in range(256)), "\u2581a", "b"]
        vocabulary = {piece: number for number, piece in enumerate(pieces)}
        self.backend = tokenizers.Tokenizer(
            models.BPE(vocabulary, [], byte_fallback=True)
        )
        self.backend.decoder = decoders.Sequence(
            [
                decoders.Replace("\u2581", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
        self.token_bytes = TokenBytes(self.backend).of

    def decode(self, ids: Iterable[int]) -> str:
        return self.backend.decode(list(ids))

    def without_begin(self, ids: Sequence[int]) -> list[int]:
        return list(ids)

    def pieces(self, prompt: Sequence[int], *parts: bytes | int) -> list[str]:
        stream = TextStream(self, prompt)
        ids = [n for p in parts for n in ([p] if isinstance(p, int) else p)]
        return [*map(stream.push, ids), stream.flush()]


A, B = 256, 257


def test_single_bytes_beside_words_join_to_characters() -> None:
    mine = Fallback()
    assert mine.pieces([A], "\u20ac".encode(), A) == ["", "", "\u20ac", " a", ""]
    assert mine.pieces([A], b"\xe2\x82", B) == ["", "", LOST + "b", ""]
    assert mine.pieces([], A, b"\xe2\x82") == ["a", "", "", LOST]
    # What was given out stays true: the decoder of whole texts says three faults here.
    assert mine.pieces([A], "\xe9".encode() + b"\xff", B) == ["", "\xe9", LOST, "b", ""]
    assert mine.pieces([A, 0xE2, 0x82], b"\xac") == [LOST, ""]
