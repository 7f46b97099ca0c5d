"""The sizes of vocabulary and tokenizer, made to go together before any work."""

from __future__ import annotations

from lumina.config import Config, Source
from lumina.data.tokenizer import Tokenizer
from lumina.data.vocabulary import check_room
from lumina.errors import LuminaError
from lumina.plan.decisions import asked_for, source_of

SMALLEST = 260
"""Tokens that any trained tokenizer has: the bytes, and some markers."""


def with_vocabulary(config: Config, tokenizer: Tokenizer | None) -> Config:
    """The settings, where values that were not chosen give way to those that were.

    Args:
        config: the settings.
        tokenizer: the one that is used; None where it is yet to be trained.

    Raises:
        LuminaError: E002 where both were chosen and do not go together.
    """
    room = config.model.vocab_size
    if room is None:
        return config
    if tokenizer is not None:
        # Conversations may add their markers, and tools theirs.
        known, what = tokenizer.with_chat(tools=True).vocab_size, "the tokenizer knows"
        certain = tokenizer.vocab_size
    else:
        known = certain = config.data.tokenizer_vocab_size or 0
        what = "the tokenizer to be trained is to know"
    if known <= room:
        return config
    if not asked_for(config, "vocab_size"):
        why = (
            f"that of the tokenizer: the {room:,} of {source_of(config, 'vocab_size')} "
            f"have no room for {known:,}"
        )
        return config.override({"vocab_size": None}, Source("decided", why))
    if tokenizer is None and not asked_for(config, "tokenizer_vocab_size"):
        if room < SMALLEST:
            raise LuminaError(
                "E002",
                f"vocab_size {room} is too small for any tokenizer trained on text",
                f"use --vocab-size {SMALLEST} or more, or leave it out",
            )
        why = f"no more than vocab_size ({source_of(config, 'vocab_size')})"
        return config.override({"tokenizer_vocab_size": room}, Source("decided", why))
    check_room(config, certain, what)
    return config
