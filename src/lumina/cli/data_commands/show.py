"""`lumina data show`: one record of the data through every stage, up to its tokens."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lumina.data.showing import Found, Shown

SUMMARY = "show a record as a run will learn from it"

_OPTIONS = (
    "format", "field", "encoding", "csv_columns", "json_field", "tokenizer",
    "tokenizer_vocab_size", "chat_template", "loss_on", "role_weights", "turn_weights",
    "max_record_bytes",
)  # fmt: skip
"""Options of a run that decide what is shown."""

RECORD_CHARACTERS = 4000
"""Of a raw record that are shown; --json shows all of it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    from lumina.cli.options import add_config_options

    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="files, folders, patterns or archives, as --train-data of `train`",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--index",
        type=int,
        metavar="N",
        help="the N-th record, counted from 0 over all files; default: 0",
    )
    which.add_argument(
        "--line", type=int, metavar="N", help="the record that begins at line N"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    add_config_options(parser, leaves=_OPTIONS)


def run(args: argparse.Namespace) -> int:
    """Print the record; 1 where it is not trained on."""
    from lumina.cli.options import flags_from_args
    from lumina.config import Config
    from lumina.data.showing import find_record, show_record

    config = Config.resolve(flags={**flags_from_args(args), "train_data": args.files})
    found = find_record(config, index=args.index, line=args.line)
    shown = show_record(config, found)
    print(_json(found, shown) if args.json else _text(found, shown))
    return int(shown.refused is not None)


def _json(found: Found, shown: Shown) -> str:
    from dataclasses import asdict

    from lumina.cli.streams import output_is_unicode

    record = found.record if isinstance(found.record, (dict, list)) else None
    values: dict[str, Any] = {
        "source": found.source,
        "line": found.line,
        "index": found.number,
        "record": record,
        **asdict(shown),
    }
    return json.dumps(values, ensure_ascii=not output_is_unicode())


def _text(found: Found, shown: Shown) -> str:
    """The stages, one below the other."""
    from lumina.cli.marked_tokens import colours, marked

    blocks = [
        ("source", f"{found.source}, line {found.line} (record {found.number:,})")
    ]
    if isinstance(found.record, (dict, list)):
        raw = json.dumps(found.record, ensure_ascii=False)
        more = len(raw) - RECORD_CHARACTERS
        told = f" ... ({more:,} more characters; --json shows them)" if more > 0 else ""
        blocks.append(("record", raw[:RECORD_CHARACTERS] + told))
    if shown.form is not None:
        blocks.append(("form", f"{shown.form}: {shown.about}"))
    for name, turns in shown.parts.items():
        for role, words, others in turns:
            label = f"{name} {role}".strip()
            blocks.append((label, words + (f"  [{others}]" if others else "")))
    if shown.unread:
        names = ", ".join(dict.fromkeys(shown.unread))
        blocks.append(("not read", f"{names}: nothing of these is trained on"))
    if shown.refused is not None:
        code, reason, hint = shown.refused
        advice = f"\nwhat to do: {hint}" if hint else ""
        blocks.append(("not trained on", f"{code}: {reason}{advice}"))
    else:
        blocks.append(("tokenizer", shown.tokenizer))
        blocks.append(("ids", " ".join(map(str, shown.ids))))
        blocks.append(("loss", _loss(shown.weights)))
        blocks.append(("text", marked(shown.pieces, shown.weights, colours())))
    return "\n".join(f"{label}: {text}" for label, text in blocks)


def _loss(weights: list[float]) -> str:
    """How many tokens bear loss, and with which weights."""
    from collections import Counter

    counts = Counter(weight for weight in weights if weight)
    told = f"{counts.total():,} of {len(weights):,} tokens, set apart below"
    if set(counts) - {1.0}:
        listed = ", ".join(f"{counts[w]:,} of weight {w:g}" for w in sorted(counts))
        told += f": {listed}"
    return told
