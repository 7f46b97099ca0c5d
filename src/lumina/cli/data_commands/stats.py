"""`lumina data stats`: figures about data."""

from __future__ import annotations

import argparse
import json

SUMMARY = "count documents, turns, lengths, forms and scripts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    from lumina.cli.data_commands.validate import add_files

    add_files(parser)


def run(args: argparse.Namespace) -> int:
    """Print the figures."""
    from lumina.cli.data_commands.validate import files_of, settings_of
    from lumina.data.quality.assess import assess
    from lumina.data.quality.check import Options, checks
    from lumina.data.quality.reports import as_text
    from lumina.data.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_path(args.tokenizer) if args.tokenizer else None
    report = assess(
        files_of(args),
        Options(tokenizer),
        max_check=args.max_check,
        only=[name for name, check in checks().items() if check.statistic],
        data=settings_of(args),
    )
    if args.json:
        print(json.dumps(report.to_dict(), indent=2, ensure_ascii=False))
    else:
        print(as_text(report, numbers=True))
    return 0
