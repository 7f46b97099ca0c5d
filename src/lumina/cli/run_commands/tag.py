"""`lumina runs tag`: words by which runs are found again."""

from __future__ import annotations

import argparse

from lumina.cli.run_files import change_tags, one_run, tags_of
from lumina.errors import LuminaError

SUMMARY = "give a run tags, or take them away"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", help="a run, or its name below ./runs")
    parser.add_argument("tags", nargs="*", metavar="TAG", help="tags to add")
    parser.add_argument(
        "--remove", nargs="+", metavar="TAG", default=[], help="tags to take away"
    )


def run(args: argparse.Namespace) -> int:
    """Write the tags into the run's folder, and print them."""
    path = one_run(args.run)
    for tag in (*args.tags, *args.remove):
        if not tag.strip() or "," in tag or not tag.isprintable():
            raise LuminaError(
                "E005", f"{tag!r} is no tag", "a tag is a word or two, without commas"
            )

    def changed(before: list[str]) -> list[str]:
        missing = [tag for tag in args.remove if tag not in before]
        if missing:
            raise LuminaError(
                "E005",
                f"{path} has no tag {missing[0]!r}",
                f"its tags are {', '.join(before) or 'none'}",
            )
        tags = dict.fromkeys([*before, *args.tags])
        return [tag for tag in tags if tag not in args.remove]

    # Without a change there is nothing to write, and it need not be permitted.
    asked = args.tags or args.remove
    tags = change_tags(path, changed) if asked else tags_of(path)
    print(f"{path}: {', '.join(tags) or 'no tags'}")
    return 0
