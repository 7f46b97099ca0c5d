"""Changes to a tokenizer of the tokenizers library."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken


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
    return copy


def specials(backend: tokenizers.Tokenizer) -> set[str]:
    """Tokens that ordinary text never becomes."""
    added = backend.get_added_tokens_decoder().values()
    return {token.content for token in added if token.special}


def add_specials(backend: tokenizers.Tokenizer, names: Sequence[str]) -> None:
    """Make tokens special; those that the vocabulary lacks are added to it."""
    backend.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in names]
    )
