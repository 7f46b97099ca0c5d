"""`lumina config`: the effective settings, and where each came from."""

from __future__ import annotations

import argparse

from lumina.cli.options import add_config_options, config_from_args, print_warnings
from lumina.cli.parsing import Parser
from lumina.cli.text import table
from lumina.config import Config
from lumina.config.leaves import field
from lumina.config.provenance import show
from lumina.config.sections import SECTIONS


def add_arguments(parser: Parser) -> None:
    """Declare the subcommands."""
    actions = parser.add_subparsers(
        dest="action", required=True, metavar="ACTION", prog=parser.prog
    )
    explain = actions.add_parser(
        "explain",
        help="every option: value, source (with --verbose also its meaning)",
        description="Every option with its value and where that came from.",
    )
    as_yaml = actions.add_parser(
        "show",
        help="the same as a YAML file",
        description="The effective settings as YAML, fit for --config-file.",
    )
    for action in (explain, as_yaml):
        action.add_everywhere()
        add_config_options(action)


def run(args: argparse.Namespace) -> int:
    """Print the settings that these words give."""
    config = config_from_args(args)
    if args.action == "show":
        print(config.to_yaml(), end="")
    else:
        print(explain(config, meaning=args.verbose))
    print_warnings(config)
    return 0


def explain(config: Config, *, meaning: bool = False) -> str:
    """A table of every leaf, its value, its source and, if asked, what it means."""
    head = ("option", "value", "source", *(("meaning",) if meaning else ()))
    rows = []
    for section in SECTIONS.values():
        for leaf in section.model_fields:
            row = [leaf, show(config.get(leaf)), str(config.provenance[leaf])]
            rows.append([*row, field(leaf).description or ""] if meaning else row)
    return f"preset {config.preset or '(none)'}\n\n{table(head, rows)}"
