"""`lumina doctor`: what this machine offers, and what is missing."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json

from lumina.cli.text import table
from lumina.errors import LuminaError
from lumina.plan.doctor import Row, report
from lumina.plan.environment import probe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--dev-mode",
        action="store_true",
        help="also what matters to those who change Lumina: tools, paths, environment "
        "variables",
    )
    parser.add_argument(
        "--capabilities",
        action="store_true",
        help="which precisions and kernels this device and others have, as tables",
    )
    parser.add_argument(
        "--tiers",
        action="store_true",
        help="the largest preset that trains on machines from small to large",
    )
    parser.add_argument(
        "--hardware-profile",
        metavar="NAME",
        help="with --capabilities: of this hardware, which need not be present "
        "(`lumina plan --hardware-profile list`)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print what was found; 1 when something that is needed is missing."""
    if args.capabilities or args.tiers:
        from lumina.cli import doctor_tables

        return doctor_tables.run(args)
    if args.hardware_profile is not None:
        raise LuminaError(
            "E002",
            "--hardware-profile describes another machine, and the report is on this",
            "add --capabilities",
        )
    environment = probe()
    rows = report(environment)
    if args.dev_mode:
        from lumina.plan.doctor_development import development

        rows += development()
    if args.json:
        facts = {
            "environment": dataclasses.asdict(environment),
            "report": [dataclasses.asdict(row) for row in rows],
        }
        print(json.dumps(facts, indent=2))
    else:
        print(_text(rows))
    return int(any(row.status == "missing" for row in rows))


def _text(rows: list[Row]) -> str:
    """A heading for each section, its rows below it."""
    marks = {"ok": "", "absent": "-", "missing": "MISSING"}
    width = max(len(row.name) for row in rows)
    blocks = [
        table(
            [section.ljust(width + 2), "", ""],
            [[f"  {row.name}", row.value, marks[row.status]] for row in group],
        )
        for section, group in itertools.groupby(rows, key=lambda row: row.section)
    ]
    return "\n\n".join(blocks)
