"""`lumina features`: what can be switched, at what cost, and what it needs."""

from __future__ import annotations

import argparse

from lumina.features.feature import Feature
from lumina.features.registry import FEATURES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", nargs="?", help="show this feature only")


def run(args: argparse.Namespace) -> int:
    """Print the registry of features."""
    if args.name is None:
        print("\n\n".join(_describe(feature) for feature in FEATURES.values()))
        return 0
    name = args.name.replace("-", "_")
    if name not in FEATURES:
        from lumina.config.leaves import nearest
        from lumina.errors import LuminaError

        close = nearest(name, FEATURES)
        hint = f"did you mean {close!r}? " if close else ""
        raise LuminaError(
            "E005",
            f"{args.name!r} is not a feature",
            f"{hint}`lumina features` lists them all",
        )
    print(_describe(FEATURES[name]))
    return 0


def _describe(feature: Feature) -> str:
    option = "--" + feature.option.replace("_", "-")
    lines = [
        f"{feature.name}: {feature.summary}",
        f"  option    {option} (left out by {feature.without})",
        f"  applied   {feature.stage}; switching it: {feature.change_cost}",
        f"  memory    {feature.memory}",
        f"  seen in   {feature.observable}",
    ]
    lines += [
        f"  excludes  {other.feature}: {other.reason} ({other.source})"
        for other in feature.excludes
    ]
    if feature.pretest:
        lines.append(f"  pretest   {feature.pretest}")
    return "\n".join(lines)
