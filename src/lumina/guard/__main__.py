"""`python -m lumina.guard NAME`: try a feature on this machine, and print JSON."""

from __future__ import annotations

import argparse
import sys

from lumina.guard.pretest import TIMEOUT, run_pretest


def main(words: list[str] | None = None) -> int:
    """Exit code 0: the feature works on this machine; 1: it does not."""
    parser = argparse.ArgumentParser(
        prog="python -m lumina.guard", description=(__doc__ or "").partition(":")[2]
    )
    parser.add_argument("name", help="the feature, as in `lumina features`")
    parser.add_argument("--plugins", nargs="+", default=[], metavar="FILE")
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda", "mps")
    )
    parser.add_argument("--timeout", type=float, default=TIMEOUT, metavar="SECONDS")
    args = parser.parse_args(words)
    name = args.name.replace("-", "_")
    result = run_pretest(name, args.plugins, device=args.device, timeout=args.timeout)
    print(result.to_json())
    return int(not result.passed)


if __name__ == "__main__":
    sys.exit(main())
