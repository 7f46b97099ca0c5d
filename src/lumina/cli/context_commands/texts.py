"""`lumina context texts`: texts that teach a model to look back."""

from __future__ import annotations

import argparse
import json

SUMMARY = "write texts to train on, with facts that are asked for at their end"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("out", metavar="FILE", help="a .jsonl file that does not exist")
    for name, default, text in (
        ("count", 1000, "texts"),
        ("length", 600, "words of a text, about"),
        ("facts", 4, "facts of a text, 1 to 12, each of which is asked for"),
        ("seed", 0, "the same seed writes the same texts"),
    ):
        parser.add_argument(
            f"--{name}",
            type=int,
            default=default,
            metavar="N",
            help=f"{text}; default: {default}",
        )


def run(args: argparse.Namespace) -> int:
    """Write the texts."""
    from pathlib import Path

    from lumina.durable import write_file
    from lumina.errors import LuminaError
    from lumina.infer.long_context.needles import NAMES, training_texts

    path = Path(args.out).expanduser()
    if path.exists():
        raise LuminaError("E005", f"{path} exists", "name a file that does not")
    if args.count < 1 or args.length < 1 or not 1 <= args.facts <= len(NAMES):
        raise LuminaError(
            "E005",
            f"count {args.count}, length {args.length}, facts {args.facts}",
            f"give at least 1 of each, and at most {len(NAMES)} facts",
        )
    texts = training_texts(args.count, args.length, args.facts, args.seed)
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    write_file(path, lines.encode())
    print(f"{path}: {args.count:,} texts")
    return 0
