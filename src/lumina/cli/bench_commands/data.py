"""`lumina bench data`: how fast data becomes tokens, in which memory, and how soon."""

from __future__ import annotations

import argparse

SUMMARY = "tokens a second, memory of large data, time to the first step"

PARTS = ("tokens", "work", "memory", "files")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help="tokens: tokens a second beside the tokenizers library alone and beside "
        "datasets.map; work: the same by the work of one thread, which other programs "
        "on the machine hardly change; memory: of a streamed run on a large file; "
        "files: seconds to the first step on an archive of small files; default: all",
    )
    parser.add_argument(
        "--file", metavar="FILE", help="JSON lines to tokenise; default: invented text"
    )
    parser.add_argument(
        "--tokenizer",
        metavar="PATH",
        help="a tokenizer.json or its folder; default: one of 8,192 tokens is trained",
    )
    numbers = {
        "megabytes": (16.0, "text on which tokens per second are measured"),
        "gigabytes": (10.0, "size of the large file, which is generated and removed"),
        "window-megabytes": (64.0, "text of the large file that is tokenised"),
    }
    for name, (default, text) in numbers.items():
        parser.add_argument(
            f"--{name}",
            type=float,
            default=default,
            metavar="X",
            help=f"{text} (default {default:g})",
        )
    counts = {
        "files": (200_000, "small files in the archive"),
        "rounds": (5, "turns of each way of making tokens"),
        "cores": (0, "threads or processes of each way; 0: all cores"),
    }
    for name, (whole, text) in counts.items():
        parser.add_argument(
            f"--{name}",
            type=int,
            default=whole,
            metavar="N",
            help=f"{text} (default {whole:,})",
        )
    parser.add_argument(
        "--folder", metavar="DIR", help="where files are generated; default: temporary"
    )
    parser.add_argument("--out", metavar="FILE", help="write the results as JSON, too")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    import json
    from pathlib import Path

    from lumina.errors import LuminaError
    from lumina.measure.bench.data import Amounts, measure

    parts = tuple(args.parts) or PARTS
    if unknown := sorted(set(parts) - set(PARTS)):
        raise LuminaError(
            "E005",
            f"{unknown[0]!r} is no part of this measurement",
            f"parts are {', '.join(PARTS)}",
        )
    amounts = Amounts(
        file=args.file,
        tokenizer=args.tokenizer,
        megabytes=args.megabytes,
        gigabytes=args.gigabytes,
        window_megabytes=args.window_megabytes,
        files=args.files,
        rounds=args.rounds,
        cores=args.cores,
        folder=args.folder,
    )
    found = measure(parts, amounts)
    text = json.dumps(found, indent=1)
    print(text)
    if args.out:
        Path(args.out).write_text(text + "\n")
    return 0
