"""`lumina matrix`: features together in short trainings, compared with a reference."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from lumina.quantities import duration


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which cells, where they go, and for how long."""
    which = parser.add_argument_group(
        "cells",
        "By default each feature alone, then every pair in rows of several features.",
    )
    for flag, text in (
        ("--singles", "each feature alone"),
        ("--pairs", "rows that hold every pair of features"),
        ("--triples", "rows that hold every three features; many"),
        ("--named", "the combinations of earlier designs, MTX-01 and so on"),
    ):
        which.add_argument(flag, action="store_true", help=text)
    which.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help="features, or named cells; of pairs and triples, those among them",
    )
    which.add_argument(
        "--width",
        type=int,
        default=None,
        metavar="N",
        help="most features of a row of pairs or triples (default 12)",
    )
    which.add_argument("--list", action="store_true", help="print the cells, run none")
    how = parser.add_argument_group("running")
    how.add_argument(
        "--folder",
        metavar="FOLDER",
        help="results and work; default: matrix in LUMINA_CACHE. A finished cell is "
        "never run again on the same machine with the same versions",
    )
    how.add_argument("--device", default="auto", help="auto, cpu or cuda")
    for name, kind, default, text in (
        ("--jobs", int, 1, "cells at a time"),
        ("--threads", int, 1, "of each process on the CPU"),
        ("--max-minutes", float, None, "begin no cell after this long"),
        ("--timeout", float, 300.0, "seconds of one training"),
    ):
        shown = "" if default is None else f" (default {default:g})"
        how.add_argument(
            name, type=kind, default=default, metavar="N", help=text + shown
        )
    how.add_argument(
        "--tokenizers",
        metavar="FOLDER",
        help="vocabularies of others, for the cells that train with them; "
        "`--named --only MTX-26` says which are missing",
    )
    how.add_argument(
        "--again", action="store_true", help="run finished cells, too, and replace them"
    )
    how.add_argument(
        "--plugins",
        nargs="+",
        default=[],
        metavar="FILE",
        help="your own .py files or modules that register features to be tried",
    )
    how.add_argument("--json", action="store_true", help="print the rows as JSON")


def run(args: argparse.Namespace) -> int:
    """Run what is asked for; 1 where a cell differs or failed, 130 where stopped."""
    import time

    from lumina.cache_root import cache_root
    from lumina.cli.answering import Interruptible
    from lumina.cli.profiling import at_least
    from lumina.guard.identity import versions
    from lumina.model.registry import load_plugins
    from lumina.plan.environment import probe
    from lumina.train.matrix.cell import Cell
    from lumina.train.matrix.choosing import WIDTH, chosen_cells, goes
    from lumina.train.matrix.judge import DIFFERS, FAILED
    from lumina.train.matrix.planning import planned_on
    from lumina.train.matrix.record import described, read_rows
    from lumina.train.matrix.run import (
        RESULTS,
        Matrix,
        current_rows,
        missing_here,
        narrower,
    )

    load_plugins(args.plugins)
    at_least("jobs", args.jobs, 1)
    at_least("threads", args.threads, 1)
    if not any((args.singles, args.pairs, args.triples, args.named)):
        args.singles = args.pairs = not args.only
    machine = probe(args.device)
    folder = Path(args.folder) if args.folder else cache_root() / "matrix"
    here = described(machine, versions(machine))
    planned = planned_on(machine)
    cells = chosen_cells(
        singles=args.singles,
        pairs=args.pairs,
        triples=args.triples,
        named=args.named,
        only=args.only,
        width=WIDTH if args.width is None else args.width,
        here=lambda name: missing_here(Cell((name,)), machine) is None,
        planned=planned,
        rows=[] if args.again else current_rows(read_rows([folder / RESULTS]), here),
    )
    if args.list:
        print("\n".join(cell.label for cell in cells))
        return 0
    began = time.monotonic()
    matrix = Matrix(
        folder=folder,
        machine=machine,
        versions=versions(machine),
        timeout=args.timeout,
        threads=args.threads,
        again=args.again,
        tokenizers=Path(args.tokenizers) if args.tokenizers else None,
        tell=(lambda *_: None) if args.json else _tell,
    )
    if args.max_minutes is not None:
        matrix.until = began + 60 * args.max_minutes
    with Interruptible() as interruption:
        matrix.asked_to_stop = lambda: interruption.asked
        rows = matrix.run(cells, args.jobs)
        while again := narrower(rows, goes, planned):
            found = matrix.run(again, args.jobs)
            rows += found
            if len(found) < len(again):  # it was stopped, or its time is over
                break
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        print(_summary(rows, len(cells), matrix.folder, time.monotonic() - began))
    if interruption.asked:
        return 130
    return int(any(row["status"] in (DIFFERS, FAILED) for row in rows))


def _tell(row: dict[str, Any], done: int, count: int) -> None:
    """One line for a finished cell."""
    code = f" {row['code']}" if row["code"] else ""
    why = f": {row['why']}" if row["why"] else ""
    text = f"[{done}/{count}] {row['status']}{code}  {row['cell']}{why}"
    print(text, flush=True)


def _summary(
    rows: list[dict[str, Any]], asked: int, folder: Path, seconds: float
) -> str:
    """How many cells have which status, and where their rows are."""
    counts = Counter(row["status"] for row in rows)
    shown = ", ".join(f"{count} {status}" for status, count in counts.items())
    left = asked - sum(1 for row in rows if row["status"])
    lines = [f"{len(rows)} cells in {duration(seconds)}: {shown or 'none'}"]
    if left > 0:
        lines.append(f"{left} are left; the same command goes on with them")
    lines.append(f"rows: {folder / 'results.jsonl'}")
    return "\n".join(lines)
