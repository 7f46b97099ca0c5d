"""`lumina data validate`: check data before anything is trained on it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

SUMMARY = "check data: what is wrong in it, with lines and a report"

READING = (
    "format", "field", "encoding", "csv_columns", "json_field", "max_record_bytes",
    "max_member_bytes", "max_unpacked_bytes", "max_unpacking_ratio",
)  # fmt: skip
"""Options of a run that say how files are read."""


def add_files(parser: argparse.ArgumentParser) -> None:
    """Declare what is read, and how."""
    from lumina.cli.options import add_config_options

    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="files, folders or globs, as --train-data of `train`",
    )
    parser.add_argument(
        "--tokenizer", metavar="PATH", help="count tokens, too; as `train` takes it"
    )
    parser.add_argument(
        "--max-check",
        type=int,
        metavar="N",
        help="look at the first N documents only; default: at all",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_config_options(parser, leaves=READING)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_files(parser)
    parser.add_argument(
        "--validate-data",
        nargs="+",
        default=[],
        metavar="FILE",
        help="the same as FILE",
    )
    parser.add_argument(
        "--eval-data",
        nargs="+",
        default=[],
        metavar="FILE",
        help="evaluation sets that the data must not overlap with",
    )
    parser.add_argument(
        "--ngram",
        type=int,
        default=13,
        metavar="N",
        help="with --eval-data: words in a row that make an overlap; 8 finds more; "
        "default: 13, as for GPT-3",
    )
    parser.add_argument(
        "--similarity",
        type=float,
        default=0.8,
        metavar="SHARE",
        help="share of common phrases from which texts are near duplicates; default: "
        "0.8",
    )
    parser.add_argument(
        "--near-documents",
        type=int,
        default=20_000,
        metavar="N",
        help="compare the first N texts only with each other, which bounds time and "
        "memory (about 2 KB for each); 0: none; default: 20000",
    )
    parser.add_argument(
        "--word-list",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="find words and phrases of a file with one on each line",
    )
    parser.add_argument(
        "--script",
        nargs="+",
        default=[],
        metavar="NAME",
        help="scripts that texts are to be in, as Unicode names them: latin, cyrillic, "
        "cjk, arabic ...",
    )
    parser.add_argument(
        "--max-tokens",
        type=int,
        default=131_072,
        metavar="N",
        help="with --tokenizer: a document of more is too long; default: 131072",
    )
    parser.add_argument(
        "--report",
        metavar="FOLDER",
        help="a new folder for report.txt, report.json and report.html, with plots",
    )
    parser.add_argument(
        "--create-report",
        action="store_true",
        help="the same as --report data-report",
    )
    parser.add_argument(
        "--show-stats", action="store_true", help="print figures and distributions, too"
    )
    parser.add_argument(
        "--quiet", action="store_true", help="print nothing; the exit code says it"
    )
    parser.add_argument(
        "--fix-errors",
        metavar="FILE",
        help="write a new .jsonl or .txt file without what can be mended: unreadable "
        "and empty records, control characters, copies; and beside it every change",
    )


def options_of(args: argparse.Namespace) -> Any:
    """The options of the checks."""
    from lumina.data.quality.assess import read_word_list
    from lumina.data.quality.check import Options
    from lumina.data.tokenizer import Tokenizer
    from lumina.errors import LuminaError

    lists = {}
    for text in args.word_list:
        name, equals, path = text.partition("=")
        if not equals or not name or not path:
            raise LuminaError(
                "E005", f"--word-list cannot be {text!r}", "write NAME=FILE"
            )
        lists[name] = read_word_list(path)
    if args.ngram < 1 or not 0 < args.similarity < 1 or args.near_documents < 0:
        raise LuminaError(
            "E005",
            f"--ngram {args.ngram}, --similarity {args.similarity} or "
            f"--near-documents {args.near_documents} makes no sense",
            "give at least 1 word, a share between 0 and 1, and 0 documents or more",
        )
    return Options(
        tokenizer=Tokenizer.from_path(args.tokenizer) if args.tokenizer else None,
        eval_data=tuple(args.eval_data),
        ngram=args.ngram,
        similarity=args.similarity,
        near_documents=args.near_documents,
        word_lists=lists,
        scripts=tuple(args.script),
        most_tokens=args.max_tokens,
    )


def files_of(args: argparse.Namespace, more: list[str] | None = None) -> list[str]:
    """The files that are named.

    Raises:
        LuminaError: E005 where there are none.
    """
    from lumina.errors import LuminaError

    files = [*args.files, *(more or [])]
    if not files:
        raise LuminaError("E005", "no FILE is named", "name files, folders or globs")
    return files


def settings_of(args: argparse.Namespace) -> Any:
    """The section of the settings that says how files are read."""
    from lumina.cli.options import flags_from_args
    from lumina.config import Config

    flags = {n: v for n, v in flags_from_args(args).items() if n in READING}
    return Config.resolve(flags=flags).data


def run(args: argparse.Namespace) -> int:
    """Check, print, write; 1 where there is an error in the data."""
    from lumina.data.quality.assess import assess, reading_whole
    from lumina.data.quality.check import checks
    from lumina.data.quality.reports import as_text, require_new_folder, write_report
    from lumina.data.quality.writing import require_new, write_mended

    files = files_of(args, args.validate_data)
    options, data = options_of(args), settings_of(args)
    folder = args.report or ("data-report" if args.create_report else None)
    if folder is not None:
        require_new_folder(Path(folder).expanduser())
    if args.fix_errors:
        require_new(args.fix_errors)
    report = assess(files, options, max_check=args.max_check, data=data)
    if not args.quiet:
        if args.json:
            print(json.dumps(report.to_dict(), indent=2, ensure_ascii=False))
        else:
            print(as_text(report, numbers=args.show_stats))
    if folder is not None:
        written = write_report(
            report, Path(folder).expanduser(), f"Data: {', '.join(files)}"
        )
        if not args.quiet and not args.json:
            print(f"\n{', '.join(map(str, written))}")
    if args.fix_errors:
        mending = [make(options) for make in checks().values() if make.mends_errors]
        fixed = write_mended(files, args.fix_errors, mending, how=reading_whole(data))
        if not args.quiet and not args.json:
            print(f"\n{fixed.in_words(args.fix_errors)}")
    return int(report.failed)
