"""`lumina data blocks`: cut data into folders of equal numbers of records."""

from __future__ import annotations

import argparse

SUMMARY = "cut data into blocks that are shuffled, or shared out, as wholes"

_OPTIONS = ("data_errors", "encoding", "max_record_bytes")
"""Options of a run that decide what is read."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    from lumina.cli.options import add_config_options

    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="files, folders, patterns or archives, as --train-data of `train`",
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder of the blocks, to train on"
    )
    parser.add_argument(
        "--block-size",
        type=int,
        default=100_000,
        metavar="N",
        help="records of a block (default 100,000)",
    )
    add_config_options(parser, leaves=_OPTIONS)


def run(args: argparse.Namespace) -> int:
    """Write the blocks."""
    from collections import Counter
    from pathlib import Path

    from lumina.cli.options import flags_from_args
    from lumina.config import Config
    from lumina.data.blocks import write_blocks
    from lumina.data.documents import Skipped, read_documents
    from lumina.data.reading_options import reading_options
    from lumina.errors import LuminaError

    if args.block_size < 1:
        raise LuminaError(
            "E005", f"block_size cannot be {args.block_size}", "it is 1 or more"
        )
    config = Config.resolve(flags={**flags_from_args(args), "train_data": args.files})
    left_out: Counter[str] = Counter()

    def skip(record: Skipped) -> None:
        left_out[record.code] += 1

    documents = read_documents(
        config.data.train_data,
        errors=config.data.data_errors,
        on_skip=skip,
        **reading_options(config.data).given(),
    )
    count = write_blocks(documents, Path(args.out), args.block_size)
    print(f"{args.out}: {count:,} blocks of at most {args.block_size:,} records")
    for code, number in left_out.items():
        print(f"left out: {number:,} bad records ({code})")
    return 0
