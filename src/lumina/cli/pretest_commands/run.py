"""`lumina pretests run`: try features on this machine, each in a process of its own."""

from __future__ import annotations

import argparse
import json

SUMMARY = "try features on this machine, each in a process of its own"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "names", nargs="*", metavar="FEATURE", help="default: all that have a pretest"
    )
    parser.add_argument("--plugins", nargs="+", default=[], metavar="FILE")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Try them and print; 1 where one of them does not work."""
    from dataclasses import asdict

    from lumina.errors import LuminaError
    from lumina.features import FEATURES, find_feature
    from lumina.guard.history import remember
    from lumina.guard.pretest import run_pretest
    from lumina.model.registry import load_plugins
    from lumina.plan.environment import probe

    load_plugins(args.plugins)
    known = [name for name, one in FEATURES.items() if one.pretest is not None]
    names = [find_feature(name).name for name in args.names] or known
    if untested := [name for name in names if name not in known]:
        raise LuminaError(
            "E005",
            f"{untested[0]} has no pretest",
            f"those that have one: {', '.join(known) or 'none'}",
        )
    device = probe(args.device).device_name
    found = []
    for name in names:
        result = run_pretest(name, args.plugins, device=args.device)
        found.append(remember(result, device))
        if not args.json:
            outcome = "works" if result.passed else f"fails: {result.problem}"
            print(f"{name}  {outcome}  ({result.seconds:.1f} s)", flush=True)
    if args.json:
        print(json.dumps([asdict(one) for one in found], indent=2))
    elif not found:
        print("no feature has a pretest; those of plug-ins may (--plugins FILE)")
    return int(not all(one.passed for one in found))
