"""`lumina config`: the effective settings, their schema, and the environment."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

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
    as_schema = actions.add_parser(
        "schema",
        help="a JSON schema of configuration files, for editors",
        description="A JSON schema by which an editor completes and checks YAML files.",
    )
    variables = actions.add_parser(
        "environment",
        help="every environment variable that changes what Lumina does",
        description="Every environment variable that changes what Lumina does.",
    )
    variables.add_argument("--json", action="store_true", help="print JSON")
    for action in (as_schema, variables):
        action.add_everywhere()


def run(args: argparse.Namespace) -> int:
    """Print the settings that these words give, or what the action is about."""
    if args.action == "schema":
        from lumina.config.schema import schema

        print(json.dumps(schema(), indent=1))
        return 0
    if args.action == "environment":
        print(environment(as_json=args.json))
        return 0
    config = config_from_args(args)
    if args.action == "show":
        print(config.to_yaml(), end="")
    else:
        print(explain(config, meaning=args.verbose))
    print_warnings(config)
    return 0


def environment(*, as_json: bool = False) -> str:
    """A table of every environment variable: its value here and what it does."""
    import os

    from lumina.config.environment_variables import VARIABLES

    rows = []
    for variable in VARIABLES:
        value = os.environ.get(variable.name)
        if variable.secret and value:
            value = "(set; not shown)"
        rows.append((variable, value))
    if as_json:
        return json.dumps(
            [asdict(one) | {"value": value} for one, value in rows], indent=2
        )
    head = ("variable", "about", "value", "meaning")
    shown = [[v.name, v.subject, value or "-", v.meaning] for v, value in rows]
    return table(head, shown)


def explain(config: Config, *, meaning: bool = False) -> str:
    """A table of every leaf, its value, its source and, if asked, what it means."""
    head = ("option", "value", "source", *(("meaning",) if meaning else ()))
    rows = []
    for section in SECTIONS.values():
        for leaf in section.model_fields:
            row = [leaf, show(config.get(leaf)), str(config.provenance[leaf])]
            rows.append([*row, field(leaf).description or ""] if meaning else row)
    return f"preset {config.preset or '(none)'}\n\n{table(head, rows)}"
