"""What is done to a tokenizer of the tokenizers library: training, changes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import tokenizers
from tokenizers import (
    AddedToken,
    Regex,
    decoders,
    models,
    pre_tokenizers,
    trainers,
)

from lumina.data.tokenizer_makes.pieces import hiding_cuts
from lumina.errors import LuminaError

# GPT-4's way to cut text into words, with numbers cut into at most two digits:
# small vocabularies have no room for a thousand numbers.
_WORDS = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)


REMEMBERED_WORDS = 2**15
"""Words whose tokens the library keeps, so that it finds them once. Its own 10,000 are
too few for books: every eighth word of 20 MB of them is cut anew, and with this number
every thirty-fifth. Beside its own, the words of books take 8 MB, and the longest
possible ones 190 MB."""

ENCODED_TOGETHER = 32
"""Texts that are given to the library at once. Of a token it makes much more than an
id; all of that is freed before the next texts."""


def remember_words(backend: tokenizers.Tokenizer) -> None:
    """Let a vocabulary keep the tokens of more words; ids do not depend on it."""
    resize = getattr(backend.model, "_resize_cache", None)  # WordLevel has no cache
    if resize is not None:
        resize(REMEMBERED_WORDS)


def ids_of(backend: tokenizers.Tokenizer, texts: Sequence[str]) -> Iterator[list[int]]:
    """Token ids of each text, in order; other Python threads run meanwhile."""
    for begin in range(0, len(texts), ENCODED_TOGETHER):
        for encoding in backend.encode_batch_fast(
            list(texts[begin : begin + ENCODED_TOGETHER]), add_special_tokens=False
        ):
            yield encoding.ids


def without_prefix(
    backend: tokenizers.Tokenizer, *, only_first: bool
) -> tokenizers.Tokenizer:
    """The tokenizer without what it puts before a text; itself, if that is nothing.

    Args:
        backend: stays as it is.
        only_first: keep what comes behind every special token too, not only at the
            beginning of the whole text.
    """

    def changed(part: Any) -> Any:
        if isinstance(part, list):
            return [changed(one) for one in part]
        if not isinstance(part, dict):
            return part
        part = {name: changed(value) for name, value in part.items()}
        kind = part.get("type")
        if kind == "Metaspace" and part["prepend_scheme"] == "first":
            return {**part, "prepend_scheme": "never"}
        if only_first:
            return part
        if kind == "Metaspace":
            return {**part, "prepend_scheme": "never"}
        if kind == "ByteLevel":
            return {**part, "add_prefix_space": False}
        if kind == "Strip":
            return {**part, "strip_left": False}
        if kind == "Prepend":
            return {"type": "Sequence", "normalizers": []}
        return part

    state = json.loads(backend.to_str())
    places = ("normalizer", "pre_tokenizer")
    new = {**state, **{place: changed(state[place]) for place in places}}
    if new == state:
        return backend
    copy = tokenizers.Tokenizer.from_str(json.dumps(new))
    copy.encode_special_tokens = True  # special text stays text
    remember_words(copy)
    return copy


def specials(backend: tokenizers.Tokenizer) -> set[str]:
    """Tokens that ordinary text never becomes."""
    added = backend.get_added_tokens_decoder().values()
    return {token.content for token in added if token.special}


def hide_specials(backend: tokenizers.Tokenizer) -> list[str]:
    """Keep ordinary text from becoming special tokens of a Unigram vocabulary.

    The library looks for all of its pieces in a text, also for `</s>`.

    Args:
        backend: its pre-tokenizer gets cuts within special tokens that text becomes.

    Returns:
        The tokens that cannot be hidden, because other tokens cross every cut.
    """
    if not isinstance(backend.model, models.Unigram):
        return []
    known = backend.get_vocab(with_added_tokens=False)
    found = [
        token
        for token in sorted(specials(backend) & known.keys())
        if _is_spelled(backend, token, known[token])
    ]
    if not found:
        return []
    cuts, seen = hiding_cuts([piece for piece in known if piece not in found], found)
    before = [] if backend.pre_tokenizer is None else [backend.pre_tokenizer]
    backend.pre_tokenizer = pre_tokenizers.Sequence([*before, *cuts])
    return seen


def _is_spelled(backend: tokenizers.Tokenizer, token: str, index: int) -> bool:
    """Whether the text of a token becomes that token, as a whole."""
    found = backend.encode(token, add_special_tokens=False)
    spans = zip(found.ids, found.offsets, strict=True)
    return any(i == index and end - start == len(token) for i, (start, end) in spans)


def add_specials(backend: tokenizers.Tokenizer, names: Sequence[str]) -> None:
    """Make tokens special; those that the vocabulary lacks are added to it."""
    backend.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in names]
    )


def trained_backend(
    texts: Iterable[str], vocab_size: int, names: Sequence[str]
) -> tokenizers.Tokenizer:
    """A byte-level BPE; arguments as those of `Tokenizer.train`.

    Args:
        names: of the special tokens.
    """
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(names),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def no_text(value: object) -> LuminaError:
    """Why the backend takes it for no text."""
    if isinstance(value, str):
        return LuminaError(
            "E103",
            "the text holds half a surrogate pair, which is not Unicode",
            "decode its bytes as UTF-8, and JSON's escaped characters as whole pairs",
        )
    return LuminaError(
        "E005",
        f"{type(value).__name__} is given where a text is expected",
        "give a str",
    )
