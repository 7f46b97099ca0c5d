"""`lumina data sanitize`: a copy of data without personal data and unwanted words."""

from __future__ import annotations

import argparse
import json

SUMMARY = "write a copy without personal data, given words and copies"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    from lumina.cli.data_commands.validate import READING
    from lumina.cli.options import add_config_options

    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="as --train-data of `train` takes them"
    )
    parser.add_argument(
        "--output", required=True, metavar="FILE", help="the new .jsonl or .txt file"
    )
    parser.add_argument(
        "--keep-pii",
        action="store_true",
        help="leave personal data in; without it, what patterns find (email, IBAN, "
        "card, address of the internet, telephone) is replaced, as by [EMAIL]",
    )
    for name in ("toxic", "nsfw"):
        parser.add_argument(
            f"--remove-{name}",
            metavar="WORDS",
            help="leave out documents with a word of this file, one on each line",
        )
    parser.add_argument(
        "--remove-duplicates", action="store_true", help="leave exact copies out"
    )
    for name in ("bias", "factuality"):
        parser.add_argument(
            f"--check-{name}",
            action="store_true",
            help="not assessed: it would need a model",
        )
    parser.add_argument(
        "--no-report", action="store_true", help="write no report beside the new file"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_config_options(parser, leaves=READING)


def run(args: argparse.Namespace) -> int:
    """Write the copy and say what was done."""
    from lumina.cli.data_commands.validate import settings_of
    from lumina.data.quality.sanitize import sanitize_dataset

    found = sanitize_dataset(
        args.files,
        args.output,
        remove_pii=not args.keep_pii,
        remove_toxic=args.remove_toxic or False,
        remove_nsfw=args.remove_nsfw or False,
        remove_duplicates=args.remove_duplicates,
        check_bias=args.check_bias,
        check_factuality=args.check_factuality,
        generate_report=not args.no_report,
        data=settings_of(args),
    )
    if args.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return 0
    print(
        f"{found['output']}: {found['written']:,} of {found['read']:,} documents; "
        f"every change is in {found['changes']}"
    )
    for what in ("changed", "left_out"):
        for name, count in found[what].items():
            print(f"{what.replace('_', ' ')} by {name}: {count:,}")
    for name, count in found["ignored_fields"].items():
        print(f"the field {name}, which nothing reads, is not in the copy: {count:,}")
    for name, why in found["not_assessed"].items():
        print(f"{name} is not assessed: {why}")
    return 0
