"""`lumina data show`: one record of the data through every stage, up to its tokens."""

from __future__ import annotations

import argparse

SUMMARY = "show a record as a run will learn from it"

_OPTIONS = (
    "tokenizer", "tokenizer_vocab_size", "loss_on", "max_record_bytes", "ascii_only",
)  # fmt: skip
"""Options of a run that decide what is shown."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    from lumina.cli.options import add_config_options

    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="files, folders or globs, as --train-data of `train`",
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
    add_config_options(parser, leaves=_OPTIONS)


def run(args: argparse.Namespace) -> int:
    """Print the record."""
    from lumina.cli.marked_tokens import colours, marked
    from lumina.cli.options import flags_from_args
    from lumina.config import Config
    from lumina.data.showing import find_document, show_document

    config = Config.resolve(flags={**flags_from_args(args), "train_data": args.files})
    document = find_document(config, index=args.index, line=args.line)
    shown = show_document(config, document)
    print(f"source: {shown.source}, line {shown.line}")
    for role, text in shown.turns:
        print(f"{role}: {text}")
    print(f"ids: {' '.join(map(str, shown.ids))}")
    print(f"loss on {sum(shown.mask)} of {len(shown.ids)} tokens:")
    print(marked(shown.pieces, shown.mask, colours()))
    return 0
