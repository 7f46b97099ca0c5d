"""A folder of token stores in the cache: its name, its opening, its counts."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lumina.data.files import count_left_out, most_first
from lumina.data.sources.members import DATA
from lumina.data.store import TokenStore
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError


def load_stores(folder: Path) -> tuple[Path, dict[str, Any]]:
    """A finished folder of stores, every byte checked; LuminaError if damaged."""
    for name in ("train", "eval"):
        if name == "train" or (folder / name).is_dir():
            TokenStore.open(folder / name).verify()
    try:
        return folder, json.loads((folder / "meta.json").read_bytes())
    except (OSError, ValueError) as error:
        raise LuminaError(
            "E101", f"{folder}: damaged: {error}", "remove this folder of the cache"
        ) from None


def opened_stores(folder: Path) -> tuple[TokenStore, TokenStore | None]:
    """The stores in a finished folder: to learn from, and held out."""
    held_out = folder / "eval"
    return (
        TokenStore.open(folder / "train"),
        TokenStore.open(held_out) if held_out.is_dir() else None,
    )


def cache_key(*parts: Any) -> str:
    """A name for what these parts decide."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:40]


def chat_parts(tokenizer: Tokenizer) -> list[str]:
    """What decides a conversation's ids besides the vocabulary: a model's template."""
    chat_format = tokenizer.chat_format
    return [chat_format.fingerprint] if chat_format and chat_format.fingerprint else []


def counts_of(meta: dict[str, Any]) -> dict[str, Any]:
    """How much there is, and what was left out."""
    return {
        "documents": meta["documents"],
        "conversations": meta["conversations"],
        "skipped": meta["skipped_total"],
        "skipped_codes": meta["skipped_codes"],
    }


def left_out(paths: Sequence[str], meta: dict[str, Any]) -> dict[str, int]:
    """What is not read of the folders and archives that are named, by its kind."""
    in_archives = Counter[str](meta.get("left_out", {}))
    return most_first(Counter(count_left_out(paths, DATA)) + in_archives)


def stats_of(
    train: TokenStore,
    evaluation: TokenStore | None,
    tokenizer: Tokenizer,
    meta: dict[str, Any],
) -> dict[str, Any]:
    """Counts and sizes of prepared data, as JSON values."""
    stats: dict[str, Any] = {
        **counts_of(meta),
        "ignored_fields": meta["ignored_fields"],
        "ascii_only": meta.get("removed", {}),
        "conversations_beyond": meta.get("beyond", {}),
        "unknown_tokens": meta["unknown_tokens"],
        "eval_documents_trained_on": meta["eval_documents_trained_on"],
        "longest_conversation": meta["longest_conversation"],
        "long_conversations": None,
        "vocab_size": tokenizer.vocab_size,
        "tokenizer": tokenizer.fingerprint,
        "tokenizer_notes": list(tokenizer.notes),
    }
    return stats | sides_of(train, evaluation)


def sides_of(train: TokenStore, evaluation: TokenStore | None) -> dict[str, Any]:
    """Counts of the two sides; null where nothing is held out."""
    stats: dict[str, Any] = {}
    for side, store in (("train", train), ("eval", evaluation)):
        if store is not None:
            stats[f"{side}_documents"] = len(store)
            stats[f"{side}_tokens"] = len(store.tokens)
            stats[f"{side}_loss_tokens"] = store.loss_tokens
            stats[f"{side}_bytes"] = store.bytes
            stats[f"{side}_fingerprint"] = store.fingerprint
    return stats
