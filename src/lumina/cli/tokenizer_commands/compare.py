"""`lumina tokenizer compare`: several tokenizers on the same texts."""

from __future__ import annotations

import argparse
import json

SUMMARY = "compare tokenizers on the same texts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "tokenizers",
        nargs="+",
        metavar="TOKENIZER",
        help="two or more, each a path or name, as --tokenizer of `train` takes it",
    )
    parser.add_argument(
        "--files",
        nargs="+",
        required=True,
        metavar="FILE",
        help="texts to compare them on, as --train-data of `train` takes them",
    )
    parser.add_argument(
        "--per-file-mb",
        type=float,
        default=16.0,
        metavar="MB",
        help="read no more of each file; 0: all of it; default: 16",
    )
    parser.add_argument(
        "--examples",
        type=int,
        default=10,
        metavar="N",
        help="most frequent stretches that the first two divide differently; "
        "default: 10",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print a row for each tokenizer and source."""
    from lumina.cli.text import table
    from lumina.data.documents import read_documents
    from lumina.data.tokenizer import Tokenizer
    from lumina.data.tokenizer_measures import frequent_differences, measure_all
    from lumina.errors import LuminaError

    if len(args.tokenizers) < 2:
        raise LuminaError(
            "E005",
            "there is only one tokenizer to compare",
            "name two or more, then --files",
        )
    found = [Tokenizer.from_path(name) for name in args.tokenizers]
    most = round(args.per_file_mb * 1e6) or None
    measured = [measure_all(one, read_documents(args.files), most) for one in found]
    examples = frequent_differences(
        found[0], found[1], read_documents(args.files), args.examples
    )
    if args.json:
        values = {
            "tokenizers": [
                {
                    "tokenizer": name,
                    "tokens": one.vocab_size,
                    "sources": [row.to_dict() for row in rows],
                }
                for name, one, rows in zip(
                    args.tokenizers, found, measured, strict=True
                )
            ],
            "differences": [
                {
                    "text": one.text,
                    "times": times,
                    "first": one.first,
                    "second": one.second,
                }
                for one, times in examples
            ],
        }
        print(json.dumps(values, indent=2, ensure_ascii=False))
        return 0
    head = ("tokenizer", "vocabulary", "source", "tokens", "bytes/token", "MB/s",
            "unknown", "changed")  # fmt: skip
    cells = [
        (
            name,
            f"{one.vocab_size:,}",
            row.source,
            f"{row.tokens:,}",
            f"{row.bytes_per_token:.3f}",
            f"{row.bytes / max(row.seconds, 1e-9) / 1e6:.1f}",
            f"{row.unknown:,}",
            f"{row.changed:,}",
        )
        for name, one, rows in zip(args.tokenizers, found, measured, strict=True)
        for row in rows
    ]
    print(
        table(head, cells, right="vocabulary tokens bytes/token MB/s unknown changed")
    )
    if examples:
        print(
            f"\ndivided differently by {args.tokenizers[0]} and {args.tokenizers[1]}:"
        )
        shown = [
            (
                f"{times:,}",
                json.dumps(one.text, ensure_ascii=False),
                " | ".join(one.first).replace("\n", "\\n"),
                " | ".join(one.second).replace("\n", "\\n"),
            )
            for one, times in examples
        ]
        print(table(("times", "text", "first", "second"), shown, right="times"))
    else:
        print("\nthe first two divide these texts alike")
    return 0
