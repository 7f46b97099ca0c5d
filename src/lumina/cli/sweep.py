"""`lumina sweep`: the same run with other values, one after another, and a table."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from lumina.cli.options import add_config_options, config_from_args
from lumina.cli.sweep_points import Point, parse_grid, parse_seeds, points, read_file
from lumina.config import Config
from lumina.config.metric_order import is_highest
from lumina.errors import LuminaError, shell_path

BASE_NAME = "base.yaml"
"""The settings that all runs of a sweep share."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is varied, and every option of a configuration."""
    own = parser.add_argument_group("sweep")
    own.add_argument(
        "--grid", nargs="+", metavar="OPTION=VALUE,VALUE", action="extend", default=[],
        help="every combination of these values is trained",
    )  # fmt: skip
    own.add_argument(
        "--sweep-file", metavar="FILE",
        help="YAML with grid (option: values), list (combinations) and seeds",
    )  # fmt: skip
    own.add_argument(
        "--seeds", metavar="N|A,B,C",
        help=(
            "this many seeds for each combination, or a list of seeds; default: the "
            "run's own"
        ),
    )  # fmt: skip
    own.add_argument(
        "--sweep-dir", metavar="DIR",
        help="where its runs go, and where it is gone on with; default: "
        "sweeps/DATE-TIME",
    )  # fmt: skip
    own.add_argument(
        "--metric", metavar="NAME",
        help="what the table compares; default: best_metric, or loss where nothing is "
        "held out",
    )  # fmt: skip
    own.add_argument(
        "--list-runs", action="store_true", help="say what would be trained, and stop"
    )
    own.add_argument("--json", action="store_true", help="print the table as JSON")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Train what is not finished, and print the table; 1 where a run failed."""
    base = config_from_args(args)
    _refuse_places(base)
    folder = Path(args.sweep_dir or time.strftime("sweeps/%Y%m%d-%H%M%S"))
    wanted = _points(args, base)
    for point in wanted:
        point.config(base, folder)  # refuses before anything is trained
    if args.list_runs:
        for point in wanted:
            print(f"{folder / point.name}: {point.setting} seed={point.seed}")
        return 0

    from lumina.cli.sweep_runs import SweepRuns, record
    from lumina.cli.sweep_table import as_csv, shown, summarised
    from lumina.durable import write_file

    _begin(folder, base)
    held_out = base.data.eval_data or base.data.eval_fraction != 0
    metric = args.metric or (base.run.best_metric if held_out else "loss")
    highest = is_highest(metric, base.run.best_is)
    runs = SweepRuns(
        folder, base, lambda text: print(text, file=sys.stderr, flush=True)
    )
    code = runs.train(wanted, metric)
    outcomes = [runs.outcome(point, metric) for point in wanted]
    rows = summarised(outcomes, metric, highest=highest)
    failed = [one for one in outcomes if one.status == "failed"]
    content: dict[str, Any] = {
        "metric": metric,
        "highest_is_best": highest,
        "table": rows,
        "failures": {one.point.name: one.error for one in failed},
    }
    record(folder, content)
    write_file(folder / "runs.csv", as_csv(outcomes, metric).encode())
    print(
        json.dumps(content, indent=2, default=str)
        if args.json
        else _text(folder, shown(rows, metric), failed, outcomes)
    )
    return code or int(bool(failed))


def _points(args: argparse.Namespace, base: Config) -> list[Point]:
    grid, listed, seeds = parse_grid(args.grid), list[dict[str, Any]](), args.seeds
    if args.sweep_file:
        of_file, listed, in_file = read_file(args.sweep_file)
        grid = of_file | grid
        seeds = in_file if seeds is None else seeds
    found = points(grid, listed, parse_seeds(seeds, base.train.seed))
    if len(found) < 2:
        raise LuminaError(
            "E005",
            "a sweep of a single run",
            "vary an option with --grid OPTION=VALUE,VALUE or --sweep-file, or train "
            "several --seeds",
        )
    return found


def _refuse_places(base: Config) -> None:
    """Options that say where one run lives mean nothing for many."""
    for leaf in ("run_dir", "experiment_name", "resume", "auto_resume", "branch_from"):
        if base.is_chosen(leaf) and not base.is_default(leaf):
            raise LuminaError(
                "E002",
                f"a sweep has many runs, and {leaf} is of one",
                "use --sweep-dir; a sweep that is started again goes on by itself",
            )


def _begin(folder: Path, base: Config) -> None:
    """The folder of the sweep: new, or of one with the same settings.

    Raises:
        LuminaError: E002 for one that was begun with other settings or that is
            something else.
    """
    from lumina.durable import write_error

    file = folder / BASE_NAME
    if file.is_file():
        before, now = Config.load(file), base.to_dict()
        different = [
            leaf for leaf, value in before.to_dict().items() if now[leaf] != value
        ]
        if different:
            leaf = different[0]
            raise LuminaError(
                "E002",
                f"{folder} was begun with {leaf} {before.get(leaf)}, and now it is "
                f"{base.get(leaf)}",
                "name another --sweep-dir, or vary the option with --grid",
            )
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise LuminaError(
                "E002",
                f"{folder} is neither empty nor a sweep",
                "name another --sweep-dir",
            )
        base.save(file)
    except OSError as error:
        raise write_error(error, folder) from error


def _text(folder: Path, table: str, failed: list[Any], outcomes: list[Any]) -> str:
    lines = [table, f"  {folder}: sweep.json, runs.csv, a folder for each run"]
    left = [one for one in outcomes if one.status in ("missing", "stopped")]
    if left:
        lines.append(
            f"  {len(left)} of {len(outcomes)} runs are not finished: the same command "
            f"with --sweep-dir {shell_path(folder)} goes on"
        )
    if failed:
        lines.append(f"  {len(failed)} of {len(outcomes)} runs failed:")
        lines += [f"    {one.point.name}: {one.error}" for one in failed]
    return "\n".join(lines)
