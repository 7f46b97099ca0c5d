"""Byte-level BPE in the tokenizers library, from a list of tokens and merges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

Cuts = Sequence[pre_tokenizers.PreTokenizer]
"""What cuts a text into words, one after the other, before bytes become letters."""


def byte_letters() -> dict[int, str]:
    """The letter that stands for each byte, as GPT-2 wrote bytes.

    Printable bytes of Latin-1 stand for themselves. The others take the characters
    from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in letters)
    letters |= {byte: chr(256 + place) for place, byte in enumerate(others)}
    return letters


def byte_level(
    vocabulary: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    cuts: Cuts,
    *,
    whole_words: bool = False,
) -> tokenizers.Tokenizer:
    """A byte-level BPE.

    Args:
        vocabulary: token → id; tokens are written with the letters of bytes.
        merges: pairs of tokens, the first merge first.
        cuts: cut texts into words.
        whole_words: a word that is a token becomes that token without any merge.
    """
    model = models.BPE(
        vocab=dict(vocabulary), merges=list(merges), ignore_merges=whole_words
    )
    backend = tokenizers.Tokenizer(model)
    bytes_to_letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*cuts, bytes_to_letters])
    backend.decoder = decoders.ByteLevel()
    return backend


def add_tokens(
    backend: tokenizers.Tokenizer, special: Sequence[str], plain: Sequence[str] = ()
) -> None:
    """Declare tokens that no merge makes.

    Args:
        backend: gets them. Tokens of its vocabulary keep their ids.
        special: text never becomes them.
        plain: text becomes them wherever it spells them.
    """
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in special]
    )
    backend.add_tokens(
        [AddedToken(token, special=False, normalized=False) for token in plain]
    )
