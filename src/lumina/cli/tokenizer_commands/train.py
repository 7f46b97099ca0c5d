"""`lumina tokenizer train`: a byte-level BPE of a stream of documents."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "train a tokenizer on files, within a bound of memory"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="as --train-data of `train` takes them"
    )
    parser.add_argument(
        "--output", required=True, metavar="FOLDER", help="a new folder to write into"
    )
    parser.add_argument(
        "--vocab-size",
        type=int,
        default=32768,
        metavar="N",
        help="the most tokens, with 256 bytes and the special tokens; default: 32768",
    )
    parser.add_argument(
        "--memory-gb",
        type=float,
        default=2.0,
        metavar="GB",
        help="the most memory for the words of the text; where they need more, every "
        "second document is read, or every fourth, and so on; default: 2",
    )
    parser.add_argument(
        "--data-errors",
        choices=("skip", "fatal"),
        default="fatal",
        help="a bad record: skip it and say so, or stop; default: fatal",
    )


def run(args: argparse.Namespace) -> int:
    """Train, save, and say what was read."""
    from lumina.data.documents import Skipped, read_documents
    from lumina.data.tokenizer_learning import require_new, train_on
    from lumina.errors import LuminaError, shell_path
    from lumina.quantities import byte_size

    folder = Path(args.output).expanduser()
    require_new(folder)
    if args.vocab_size < 261:
        raise LuminaError(
            "E005",
            f"--vocab-size {args.vocab_size} has no room for 256 bytes and 5 special "
            "tokens",
            "give at least 261",
        )
    skipped: dict[tuple[str, int | None], Skipped] = {}

    def note(one: Skipped) -> None:
        skipped[one.source, one.line] = one  # each pass meets it again

    learnt = train_on(
        lambda: read_documents(args.files, errors=args.data_errors, on_skip=note),
        args.vocab_size,
        round(args.memory_gb * 1e9),
    )
    learnt.tokenizer.save(folder)
    if learnt.every > 1:
        print(
            f"one document in {learnt.every} was read: all of them have more different "
            f"words than {byte_size(args.memory_gb * 1e9)} of memory hold"
        )
    for one in skipped.values():
        print(f"left out: {one.source}, line {one.line}: {one.reason}")
    print(
        f"{folder}: {learnt.tokenizer.vocab_size:,} tokens from {learnt.documents:,} "
        f"documents of {byte_size(learnt.bytes)} with {learnt.words:,} different words"
    )
    if learnt.tokenizer.vocab_size < args.vocab_size:
        print(
            f"these are fewer than {args.vocab_size:,}: the text has no more pairs "
            "that occur twice"
        )
    print(f"next: lumina tokenizer inspect {shell_path(folder)}")
    return 0
