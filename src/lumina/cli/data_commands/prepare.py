"""`lumina data prepare`: make the token store of a run ahead of it."""

from __future__ import annotations

import argparse

SUMMARY = "make tokens of data ahead of training, which then begins from them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments: those of `train`."""
    from lumina.cli.options import add_config_options

    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="the same as --train-data"
    )
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Prepare the data and say what is in the cache now."""
    from lumina.cli.options import config_from_args
    from lumina.config import Source
    from lumina.data.preparing import prepare_ahead
    from lumina.model.registry import load_plugins
    from lumina.quantities import count

    config = config_from_args(args)
    if args.files:
        config = config.override({"train_data": args.files}, Source("flag"))
    load_plugins(config.parts.plugins)
    made = prepare_ahead(config, on_event=_told)
    where = "were in the cache already" if made.cached else "are in the cache now"
    print(
        f"{count(made.tokens)} tokens of {made.documents:,} documents {where}: "
        f"{made.root}\n"
        "training on the same data with the same tokenizer and options begins with them"
    )
    return 0


def _told(**event: object) -> None:
    if event.get("severity") == "warning":
        print(f"warning: {event['message']}")
