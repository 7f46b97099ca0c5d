"""What a run found in its data, and what of it was left out: for its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_RECORDS = 20
"""Bad records named one by one."""

_NAMES = {
    "data_files_ignored": "files not read",
    "data_fields_ignored": "fields not read",
    "data_ascii_only": "beyond ASCII, taken out",
    "data_unknown_characters": "unknown characters",
    "data_long_conversations": "long conversations",
    "data_rows_without_labels": "rows without a label",
    "data_files_repeated": "files named twice",
    "eval_data_trained_on": "held out and learned",
    "data_no_eval": "held out",
    "data_much_held_out": "held out",
    "data_cache_damaged": "cache",
    "chat_markers": "chat markers",
    "chat_template": "chat template",
    "tokenizer": "tokenizer",
}
"""Kinds of events about data, and what they are called in the report. Others whose kind
begins with "data_" are called by the rest of it."""


@dataclass(frozen=True)
class Row:
    """A line of the report's section on data.

    Attributes:
        name: what it is about.
        text: in words.
        warns: something was left out, or will not be learned.
    """

    name: str
    text: str
    warns: bool = False


def data_rows(events: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The lines about the data of the run's last start.

    Args:
        events: of events.jsonl, in order.
    """
    starts = [n for n, e in enumerate(events) if e.get("kind") == "run_started"]
    if not starts:
        return []
    # An earlier version left no figures, but the same events.
    found = (events[starts[-1]].get("data") or {}).get("found") or {}
    later = events[starts[-1] + 1 :]
    rows = [Row("read", _read(found))] if found.get("documents") else []
    for side, name in (("train", "to learn from"), ("eval", "held out")):
        if found.get(f"{side}_tokens"):
            rows.append(Row(name, _side(found, side)))
    if found.get("skipped"):
        rows.append(Row("bad records left out", _skipped(found), warns=True))
    rows += _bad_records(later)
    for event in later:
        about = _about(str(event.get("kind")))
        if about is not None:
            warns = event.get("severity") not in ("info", "debug")
            rows.append(Row(about, str(event.get("message", "")), warns))
    return rows


def _about(kind: str) -> str | None:
    """What an event is about; None where it is not the data."""
    if kind == "data_skipped" or kind in _NAMES:
        return _NAMES.get(kind)  # records are named one by one
    return kind[5:].replace("_", " ") if kind.startswith("data_") else None


def _read(found: Mapping[str, Any]) -> str:
    documents, talks = found.get("documents", 0), found.get("conversations", 0)
    phrase = f"{documents:,} {_noun('document', documents)}"
    return phrase + (f", {talks:,} of them conversations" if talks else "")


def _side(found: Mapping[str, Any], side: str) -> str:
    documents = found.get(f"{side}_documents", 0)
    tokens, taught = found[f"{side}_tokens"], found.get(f"{side}_loss_tokens", 0)
    return (
        f"{documents:,} {_noun('document', documents)} or pieces of such, {tokens:,} "
        f"tokens, of which {taught:,} bear loss"
    )


def _skipped(found: Mapping[str, Any]) -> str:
    codes = found.get("skipped_codes") or {}
    listed = ", ".join(f"{code} {n:,}" for code, n in sorted(codes.items()))
    return f"{found['skipped']:,}" + (f" ({listed})" if listed else "")


def _bad_records(events: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The first bad records, each with where it stands and what is wrong with it."""
    phrases = [
        e for e in events
        if e.get("kind") == "data_skipped" and (e.get("data") or {}).get("source")
    ]  # fmt: skip
    return [
        Row(str(event.get("code") or ""), str(event.get("message", "")), warns=True)
        for event in phrases[:MOST_RECORDS]
    ]


def _noun(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"
