"""`lumina optimize`: the context and the batch that fit, and how fast they are."""

from __future__ import annotations

import argparse
import json
import sys

from lumina.cli.options import add_config_options, config_from_args
from lumina.cli.text import table
from lumina.errors import LuminaError
from lumina.features import lacking


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The lengths to try, and the options of a configuration."""
    own = parser.add_argument_group("optimize")
    own.add_argument(
        "--lengths", nargs="+", type=int, metavar="N",
        help="tokens of a row to try; default: half, once, twice and four times the "
        "--seq-length",
    )  # fmt: skip
    own.add_argument("--json", action="store_true", help="print JSON")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Measure, print a table, and name the fastest and the longest; 1: none fits."""
    config = config_from_args(args)
    usual = config.model.seq_length
    lengths = sorted(set(args.lengths or [usual // 2, usual, 2 * usual, 4 * usual]))
    if lengths[0] < 1:
        raise LuminaError("E005", f"lengths has {lengths[0]}", "give 1 or more")
    if config.train.batch_size is not None and config.is_chosen("batch_size"):
        raise LuminaError(
            "E002", "optimize looks for the batch_size, and it is named", "leave it out"
        )
    if lacking(config, "measured_batch"):
        raise LuminaError(
            "E002",
            "optimize measures steps on rows of text, which reasoners, several tasks "
            "and registered objectives do not train on alone",
            "measure by hand: `lumina train --batch-size N --steps 5`",
        )

    from lumina.quantities import byte_size
    from lumina.train.optimize import optimized

    fits = optimized(
        config,
        lengths,
        config.batch_search.target_memory_usage,
        lambda text: print(text, file=sys.stderr, flush=True),
    )
    rows = [
        {
            "seq_length": fit.seq_length,
            "batch_size": fit.found.size if fit.found else None,
            "peak_bytes": fit.found.peak if fit.found else None,
            "tokens_per_second": fit.found.tokens_per_second if fit.found else None,
            "why_not": fit.why,
        }
        for fit in fits
    ]
    good = [fit for fit in fits if fit.found is not None]
    if args.json:
        print(json.dumps(rows, indent=1))
        return int(not good)
    cells = [
        [
            f"{fit.seq_length:,}",
            str(fit.found.size) if fit.found else "-",
            byte_size(fit.found.peak) if fit.found else "-",
            f"{fit.found.tokens_per_second:,.0f}" if fit.found else fit.why,
        ]
        for fit in fits
    ]
    head = ("seq_length", "batch_size", "peak", "tokens/s")
    print(table(head, cells, right="seq_length batch_size peak"))
    if not good:
        return 1
    fastest = max(good, key=lambda f: f.found.tokens_per_second if f.found else 0.0)
    for words, fit in (("fastest", fastest), ("longest", good[-1])):
        assert fit.found is not None
        print(f"{words}: --seq-length {fit.seq_length} --batch-size {fit.found.size}")
    return 0
