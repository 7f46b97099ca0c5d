"""`lumina pretests levers`: prove the optimisations of a run on this machine."""

from __future__ import annotations

import argparse
import json

from lumina.cli.options import add_config_options, config_from_args

SUMMARY = "prove the optimisations that a run of these options would have"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the run that is asked about."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Try each and print; 1 where one of them is not trusted."""
    from dataclasses import asdict

    from lumina.guard.safe_optimizations import SafeOptimizations
    from lumina.model.registry import load_plugins

    config = config_from_args(args)
    load_plugins(config.parts.plugins)
    safe = SafeOptimizations(config)
    verdicts = safe.pretest()
    if args.json:
        shown = {name: asdict(one) for name, one in verdicts.items()}
        print(json.dumps({"status": safe.status(), "verdicts": shown}, indent=2))
    else:
        for name, one in verdicts.items():
            said = "trusted" if one.trusted else "not trusted"
            print(f"{name}  {said}: {one.text}")
        if not verdicts:
            print("a run of these options has no optimisation that can be left out")
    return int(not all(one.trusted for one in verdicts.values()))
