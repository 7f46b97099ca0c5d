"""What makes ids of texts and conversations, as runs record it to know it again."""

from __future__ import annotations

from collections.abc import Mapping

from lumina.data.tokenizer import Tokenizer


def encoding_of(tokenizer: Tokenizer | None) -> dict[str, str]:
    """What makes ids of texts and conversations, by name and fingerprint."""
    if tokenizer is None:
        return {}
    chat_format = tokenizer.chat_format
    template = chat_format.fingerprint if chat_format else ""
    return {"tokenizer": tokenizer.fingerprint, "chat template": template}


def changed_encoding(
    recorded: Mapping[str, str], tokenizer: Tokenizer | None
) -> list[str]:
    """The names of what is not as it was recorded; nothing where nothing was."""
    now = encoding_of(tokenizer)
    return [name for name, mark in recorded.items() if now.get(name) != mark]


def change_in_words(recorded: Mapping[str, str], tokenizer: Tokenizer) -> str | None:
    """What became of the tokenizer of a trained model, in words; None: nothing."""
    changed = changed_encoding(recorded, tokenizer)
    if not changed:
        return None
    return (
        f"the {' and the '.join(changed)} of this run changed since it was trained: "
        "the model is given other ids than it learned from"
    )
