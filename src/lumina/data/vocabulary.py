"""Whether a model has room for the tokens of a tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.config import Config


def check_room(config: Config, tokens: int, what: str = "the tokenizer knows") -> None:
    """Refuse a chosen `vocab_size` that is too small for a tokenizer.

    A preset's is no choice: it gives way (`lumina.train.vocabulary`).

    Raises:
        LuminaError: E002, saying what would go together.
    """
    room, source = config.model.vocab_size, config.provenance["vocab_size"]
    if room is None or tokens <= room or not source.chosen:
        return
    if source.detail.startswith("weights "):
        hint = "leave --tokenizer out: the weights come with their own"
        if config.data.tokenizer in (None, source.detail.removeprefix("weights ")):
            added = what != "the tokenizer knows"
            hint = "the weights have no rows for them: " + (
                "train on plain text instead"
                if added
                else "take the tokens that were added out of its tokenizer.json, or "
                "save the model again with rows for them (resize_token_embeddings)"
            )
    else:
        hint = f"use --vocab-size {-(-tokens // 64) * 64}, or leave it out"
    raise LuminaError(
        "E002",
        f"{what} {tokens:,} tokens but the model has room for {room:,} "
        f"(vocab_size: {source.label})",
        hint,
    )
