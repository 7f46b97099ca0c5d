"""Which chat template writes the conversations: what `--chat-template` chooses."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lumina.data.files import no_permission
from lumina.data.template_errors import UnusableTemplateError
from lumina.data.template_files import DEFAULT, Templates
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError

MAX_BYTES = 2**20
"""Of a file with a template."""


def with_template(tokenizer: Tokenizer, choice: str | None) -> Tokenizer:
    """The tokenizer with the chat template that was chosen.

    Args:
        tokenizer: with its own template, or without one.
        choice: "tokenizer" for its own, "lumina" for Lumina's markers, or a file; None:
            its own if it has one, and Lumina's markers otherwise.

    Raises:
        LuminaError: E104 or E106 for the file, E103 if it is not UTF-8, E108 if the
            tokenizer has no template, or the file's is none.
    """
    own = tokenizer.templates
    if choice is None:
        return tokenizer
    if choice == "tokenizer":
        if own is None:
            raise LuminaError(
                "E108",
                "--chat-template tokenizer: the tokenizer has no chat template",
                "name a file with a template, or leave --chat-template out",
            )
        return tokenizer
    if choice == "lumina":
        return tokenizer if own is None else tokenizer.with_templates(None)
    path = Path(choice).expanduser()
    if not path.is_file() and own is not None and own.origin == choice:
        return tokenizer  # that of a run which goes on where the file is not
    text = _text(path)
    if own is not None and own.named.get(DEFAULT) == text:
        return tokenizer
    day = datetime.date.today().isoformat()
    made = Templates({DEFAULT: text}, tokenizer.named_specials(), day, origin=choice)
    found = tokenizer.with_templates(made)
    if found.chat_format is not None and not found.chat_format.end_ids:
        raise UnusableTemplateError(
            "E108",
            f"--chat-template {choice}: it does not write an answer that ends with a "
            "special token of the vocabulary",
            "use the template of the tokenizer's own model, or a tokenizer that has "
            "its special tokens",
        )
    return found


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise LuminaError(
                "E108",
                f"{path} has more than {MAX_BYTES:,} bytes, so it is no chat template",
                "name a file with a Jinja template",
            )
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise LuminaError(
            "E104",
            f"--chat-template {path}: there is no such file",
            "name a file with a Jinja template, or one of tokenizer and lumina",
        ) from None
    except PermissionError:
        raise no_permission(path) from None
    except UnicodeDecodeError:
        raise LuminaError(
            "E103", f"{path}: not UTF-8", "convert it to UTF-8 (iconv)"
        ) from None


def begins_and_ends(
    tokenizer: Tokenizer,
    first: NDArray[np.integer[Any]],
    choice: str | None,
    *,
    documents: int,
    conversations: int,
) -> dict[str, str]:
    """Which tokens begin and end texts and conversations, in words, for the plan.

    Args:
        tokenizer: makes the tokens.
        first: [N] ids of the first document; it decides what is said of conversations.
        choice: as for `with_template`.
        documents: how many there are; `conversations` of them are conversations.
    """
    found = {}
    if documents > conversations:
        found["texts"] = text_in_words(tokenizer)
    if conversations:
        words, _ = template_in_words(tokenizer, first, choice)
        found["conversations"] = words.removeprefix("conversations are ")
    return found


def text_in_words(tokenizer: Tokenizer) -> str:
    """How texts begin and end."""
    begin = " ".join(tokenizer.decode([one]) for one in tokenizer.begin)
    end = tokenizer.decode([tokenizer.eos_id])
    start = f"begin once with {begin}" if begin else "begin without a begin token"
    return f"{start}, and end once with {end}"


def template_in_words(
    tokenizer: Tokenizer, first: NDArray[np.integer[Any]], choice: str | None
) -> tuple[str, bool]:
    """(what writes conversations and how they begin and end, whether it is odd).

    Args:
        tokenizer: made the ids.
        first: [N] ids of the first document, a conversation.
        choice: as for `with_template`.
    """
    if tokenizer.templates is None:
        told = "conversations are written with Lumina's own markers"
    elif choice is None or choice in ("tokenizer", "lumina"):
        told = "conversations are written by the tokenizer's chat template"
    else:
        told = f"conversations are written by the chat template of {choice}"
    if not len(first):
        return told, False
    ids = first
    begin, end = tokenizer.named_begin, int(tokenizer.eos_id)
    twice = begin is not None and len(ids) > 1 and (ids[:2] == begin).all()
    count = 0 if begin is None else int((np.asarray(ids) == begin).sum())
    ends = int((np.asarray(ids) == end).sum())
    name = tokenizer.decode([int(ids[-1])]).strip() or "white space"
    if begin is None:
        told += "; no begin token is named"
    else:
        told += f"; the begin token stands in the first one {_times(count)}"
    told += f", the end token {_times(ends)}, and the last token is {name}"
    if twice:
        told += "; two begin tokens at the start: of which the template writes both"
    return told, bool(twice)


def _times(count: int) -> str:
    words = {0: "not at all", 1: "once"}
    return words.get(count, f"{count} times")
