"""`lumina tokenizer inspect`: what a tokenizer is, and how it suits files."""

from __future__ import annotations

import argparse
import json
from typing import Any

SUMMARY = "show a tokenizer, and how well it suits files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "tokenizer", help="a path or name, as --tokenizer of `train` takes it"
    )
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="texts to count the tokens of"
    )
    parser.add_argument(
        "--per-file-mb",
        type=float,
        default=16.0,
        metavar="MB",
        help="read no more of each file; 0: all of it; default: 16",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print what is known."""
    from lumina.cli.text import table
    from lumina.data.documents import read_documents
    from lumina.data.tokenizer import Tokenizer
    from lumina.data.tokenizer_measures import describe, measure_all

    tokenizer = Tokenizer.from_path(args.tokenizer)
    found = describe(tokenizer)
    rows = []
    if args.files:
        most = round(args.per_file_mb * 1e6) or None
        rows = measure_all(tokenizer, read_documents(args.files), most)
    if args.json:
        values = {**found, "sources": [row.to_dict() for row in rows]}
        print(json.dumps(values, indent=2, ensure_ascii=False))
        return 0
    print(_lines(found))
    if rows:
        head = ("source", "texts", "bytes", "tokens", "bytes/token", "vocabulary",
                "unknown", "changed")  # fmt: skip
        cells = [
            (
                row.source,
                f"{row.texts:,}",
                f"{row.bytes:,}",
                f"{row.tokens:,}",
                f"{row.bytes_per_token:.3f}",
                f"{row.coverage:.1%}",
                f"{row.unknown:,}",
                f"{row.changed:,}",
            )
            for row in rows
        ]
        print("\n" + table(head, cells, right=" ".join(head[1:])))
        print(
            "vocabulary: share of its tokens that occur; unknown: tokens for "
            "characters it cannot spell; changed: texts that do not come back as they "
            "were"
        )
    return 0


def _lines(found: dict[str, Any]) -> str:
    shown = list(found["special_tokens"].items())
    more = f" and {len(shown) - 12} more" if len(shown) > 12 else ""
    special = ", ".join(f"{token} {index}" for token, index in shown[:12]) + more
    lines = [
        ("kind", found["kind"]),
        ("tokens", f"{found['tokens']:,}"),
        ("rows of a model", f"{found['rows_of_a_model']:,}, a multiple of 64"),
        ("special tokens", special or "none"),
        ("texts begin with", " ".join(found["texts_begin_with"]) or "nothing"),
        ("documents end with", " ".join(found["documents_end_with"])),
        ("answers end with", " ".join(found["answers_end_with"])),
        ("conversations", found["chat"]),
        ("sample", json.dumps(found["sample"], ensure_ascii=False)),
        ("its pieces", json.dumps(found["sample_pieces"], ensure_ascii=False)),
        ("comes back", "yes" if found["sample_comes_back"] else "no, it is changed"),
        *(("note", note) for note in found["notes"]),
    ]
    return "\n".join(f"{name:<20}{value}" for name, value in lines)
