"""Runs one pretest in this process and prints its problem as the last line, in JSON."""

from __future__ import annotations

import argparse
import json
import sys

from lumina.errors import LuminaError
from lumina.features import find_feature, resolved
from lumina.model.registry import load_plugins
from lumina.plan.environment import probe


def main(words: list[str] | None = None) -> int:
    """Exit code 0: the feature works here, or has no pretest; 1: it does not."""
    parser = argparse.ArgumentParser(prog="python -m lumina.guard.child")
    parser.add_argument("name")
    parser.add_argument("--plugins", nargs="*", default=[])
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(words)
    problem = _problem(args.name, args.plugins, args.device)
    print(json.dumps({"problem": problem or ""}), flush=True)
    return int(problem is not None)


def _problem(name: str, plugins: list[str], device: str) -> str | None:
    """Why the feature does not work here, or None."""
    try:
        load_plugins(plugins)
        feature = find_feature(name)
        machine = probe(device)
        unmet = feature.needs(machine)
        if unmet or feature.pretest is None:
            return unmet
        found: str | None = resolved(feature.pretest)(machine)
        return found or None
    except LuminaError as error:
        return error.message
    except Exception as error:
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.exit(main())
