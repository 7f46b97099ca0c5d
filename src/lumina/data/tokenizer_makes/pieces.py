"""SentencePiece's pieces, as the tokenizers library computes with them.

BPE: SentencePiece joins the two neighbours whose joined text is the piece of the
highest score, the leftmost first. The tokenizers library has a list of pairs, so every
way to cut a piece into two others becomes a pair, in the order of the scores.

Unigram: the library looks for all pieces in a text, also for control pieces such as
`</s>`, which SentencePiece never finds there. A cut that is put between two letters of
such a piece, where no other piece lies across, hides it and changes nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

from lumina.data.tokenizer_makes.byte_bpe import add_tokens

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
SPACE = "▁"


@dataclass(frozen=True)
class Pieces:
    """A vocabulary of SentencePiece.

    Attributes:
        unigram: the best pieces are searched for; else neighbours are joined.
        texts: of each piece, by id.
        scores: of each piece.
        kinds: of each piece: `NORMAL`, `CONTROL` and so on.
        byte_fallback: characters without a piece become pieces for bytes.
        charsmap: the compiled table of normalised characters; empty for none.
        prefix: a space is put before every text.
        joins_spaces: spaces at both ends of a text are left out, and several in a row
            become one.
    """

    unigram: bool
    texts: list[str]
    scores: list[float]
    kinds: list[int]
    byte_fallback: bool
    charsmap: bytes = b""
    prefix: bool = True
    joins_spaces: bool = False

    def of_kind(self, *kinds: int) -> list[str]:
        """The pieces of some kinds, in the order of their ids."""
        return [
            text
            for text, kind in zip(self.texts, self.kinds, strict=True)
            if kind in kinds
        ]


def backend_of(pieces: Pieces) -> tokenizers.Tokenizer:
    """The pieces in the tokenizers library.

    Raises:
        ValueError: they are no vocabulary.
    """
    if len(set(pieces.texts)) != len(pieces.texts):
        raise ValueError("a piece occurs twice")
    unknown = [n for n, kind in enumerate(pieces.kinds) if kind == UNKNOWN]
    backend = tokenizers.Tokenizer(
        _unigram(pieces, unknown) if pieces.unigram else _bpe(pieces, unknown)
    )
    backend.normalizer = _normalizer(pieces)
    if pieces.unigram and (hidden := _hiding_cuts(pieces)):
        backend.pre_tokenizer = pre_tokenizers.Sequence(hidden)
    backend.decoder = _decoder(pieces)
    add_tokens(
        backend,
        pieces.of_kind(UNKNOWN, CONTROL),
        pieces.of_kind(USER_DEFINED),
    )
    return backend


def _unigram(pieces: Pieces, unknown: list[int]) -> models.Model:
    if len(unknown) != 1:
        raise ValueError("there has to be one piece for what is unknown")
    vocabulary = list(zip(pieces.texts, pieces.scores, strict=True))
    return models.Unigram(
        vocabulary, unk_id=unknown[0], byte_fallback=pieces.byte_fallback
    )


def _bpe(pieces: Pieces, unknown: list[int]) -> models.Model:
    ids = {text: index for index, text in enumerate(pieces.texts)}
    return models.BPE(
        vocab=ids,
        merges=_merges(pieces, ids),
        unk_token=pieces.texts[unknown[0]] if unknown else None,
        fuse_unk=True,
        byte_fallback=pieces.byte_fallback,
    )


def _merges(pieces: Pieces, ids: dict[str, int]) -> list[tuple[str, str]]:
    spelled = set(pieces.of_kind(NORMAL, UNUSED))
    found = []
    for text in spelled:
        index = ids[text]
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in spelled and right in spelled:
                found.append((-pieces.scores[index], index, cut, left, right))
    found.sort()
    return [(left, right) for *_, left, right in found]


def _normalizer(pieces: Pieces) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = []
    if pieces.charsmap:
        steps.append(normalizers.Precompiled(pieces.charsmap))
    if pieces.joins_spaces:
        steps.append(normalizers.Replace(Regex(rf"\A +|[ {SPACE}]+\z"), ""))
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    if pieces.prefix:
        steps.append(normalizers.Prepend(SPACE))
    steps.append(normalizers.Replace(" ", SPACE))
    return normalizers.Sequence(steps)


def _decoder(pieces: Pieces) -> decoders.Decoder:
    steps: list[decoders.Decoder] = [decoders.Replace(SPACE, " ")]
    if pieces.byte_fallback:
        steps.append(decoders.ByteFallback())
    steps.append(decoders.Fuse())
    if pieces.prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    return decoders.Sequence(steps)


def _hiding_cuts(pieces: Pieces) -> list[pre_tokenizers.PreTokenizer]:
    """Cuts that keep texts from becoming pieces which no text is.

    Raises:
        ValueError: such a piece cannot be hidden.
    """
    cuts, seen = hiding_cuts(
        pieces.of_kind(NORMAL, USER_DEFINED),
        pieces.of_kind(UNKNOWN, CONTROL, UNUSED, BYTE),
    )
    if seen:
        raise ValueError(f"texts could become the piece {seen[0]}, which is none")
    return cuts


def hiding_cuts(
    spelled: Sequence[str], hidden: Sequence[str]
) -> tuple[list[pre_tokenizers.PreTokenizer], list[str]]:
    """Cuts that keep texts from becoming some pieces; and those that stay to be seen.

    Args:
        spelled: the pieces that texts are to become.
        hidden: the others.
    """
    across = {text[n : n + 2] for text in spelled for n in range(len(text) - 1)}
    letters = {text for text in spelled if len(text) == 1}
    chosen: list[str] = []
    seen: list[str] = []
    for text in hidden:
        pairs = [text[n : n + 2] for n in range(len(text) - 1)]
        if any(pair in chosen for pair in pairs):
            continue
        free = [pair for pair in pairs if pair not in across]
        # Between two unknown letters a cut would make two unknown tokens out of one.
        free.sort(key=lambda pair: not letters.intersection(pair))
        if free:
            chosen.append(free[0])
        else:
            seen.append(text)
    return [_cut_within(pair) for pair in chosen], seen


def _cut_within(pair: str) -> pre_tokenizers.PreTokenizer:
    first, second = map(re.escape, pair)
    return pre_tokenizers.Split(Regex(f"{first}(?={second})"), "merged_with_previous")


def spelled_bytes() -> Iterable[str]:
    """The pieces for the 256 bytes."""
    return (f"<0x{byte:02X}>" for byte in range(256))
