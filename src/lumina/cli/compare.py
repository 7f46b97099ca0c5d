"""`lumina compare`: two models on the same questions, or runs of two settings."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lumina.cli.answering import add_device_options, row_progress, tell
from lumina.cli.evaluation_tasks import (
    add_task_options,
    files_by_task,
    how_asked,
    refuse_without_tasks,
)
from lumina.cli.streams import output_is_unicode
from lumina.cli.text import table
from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.infer.evaluation_tasks.comparing import Comparison
    from lumina.infer.evaluation_tasks.results import TaskResults


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    sides = parser.add_argument_group("what is compared")
    for flag, text in (
        ("--baseline", "what is in use"),
        ("--candidate", "what may replace it"),
    ):
        sides.add_argument(
            flag,
            nargs="+",
            action="extend",
            default=[],
            metavar="RUN",
            help=f"{text}: a model or a file of results; or several runs, such as of "
            "different seeds",
        )
    tasks = parser.add_argument_group("questions for models")
    add_task_options(tasks)
    tasks.add_argument(
        "--batch-size", type=int, metavar="N",
        help="rows side by side; changes the memory it takes, not the result",
    )  # fmt: skip
    tasks.add_argument(
        "--plugins", nargs="+", action="extend", default=[], metavar="FILE",
        help="your own .py files or modules, with tasks or parts of the models",
    )  # fmt: skip
    add_device_options(tasks)
    how = parser.add_argument_group("statistics")
    how.add_argument(
        "--metrics",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="metrics, or perplexity, accuracy, coherence, safety for all that belong "
        "to it; default: the main metric of each task",
    )
    how.add_argument(
        "--statistical-test",
        choices=("t_test", "bootstrap"),
        default="t_test",
        help="of pairs, or Welch's of two sets; default: t_test",
    )
    how.add_argument(
        "--confidence-level",
        type=float,
        default=0.95,
        metavar="X",
        help="of the intervals and the verdicts; default: 0.95",
    )
    how.add_argument(
        "--paired",
        action="store_true",
        help="of several runs, the first of both sides belong together, and so on: "
        "they have the same seed",
    )
    how.add_argument(
        "--errors",
        type=int,
        default=0,
        metavar="N",
        help="show N questions that only the baseline answered rightly",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Compare and print."""
    if not args.baseline or not args.candidate:
        raise LuminaError(
            "E005",
            "two sides are compared, and one is not named",
            "lumina compare --baseline RUN --candidate RUN",
        )
    from lumina.infer.evaluation_tasks.comparing import compare_results
    from lumina.model.registry import load_plugins

    load_plugins(args.plugins)
    if not args.tasks:
        refuse_without_tasks(args)
    first, second = (_results(args, names) for names in (args.baseline, args.candidate))
    if args.paired and not args.tasks:
        _check_seeds(args.baseline, args.candidate)
    found = compare_results(
        first,
        second,
        metrics=args.metrics,
        statistical_test=args.statistical_test,
        confidence_level=args.confidence_level,
        paired=args.paired,
    )
    if args.json:
        print(json.dumps(found.to_dict(), ensure_ascii=not output_is_unicode()))
        return 0
    print(_text(found))
    for line in _lost(found, second[0], args.errors):
        print(line)
    return 0


def _results(args: argparse.Namespace, names: Sequence[str]) -> list[TaskResults]:
    """The results of one side, one model in memory at a time."""
    from lumina.infer.evaluation_tasks.running import evaluate_tasks
    from lumina.infer.evaluation_tasks.saved import figures_of_run, read_results

    found = []
    for name in names:
        path = Path(name)
        if path.suffix == ".json":
            if args.tasks:
                raise LuminaError(
                    "E002",
                    f"{name} has results, and --tasks asks models",
                    "leave --tasks out, or name models on both sides",
                )
            found.append(read_results(path))
        elif args.tasks:
            found.append(
                evaluate_tasks(
                    path,
                    files_by_task(args.tasks, "--tasks"),
                    device=args.device,
                    precision=args.precision,
                    batch_size=args.batch_size,
                    on_event=tell,
                    on_rows=row_progress(),
                    **how_asked(args),
                )
            )
        else:
            found.append(figures_of_run(path))
    return found


def _check_seeds(baseline: Sequence[str], candidate: Sequence[str]) -> None:
    """Runs that are pairs have the same seed."""
    from lumina.config import Config

    for one, two in zip(baseline, candidate, strict=False):
        files = [Path(name) / "config.yaml" for name in (one, two)]
        if all(file.is_file() for file in files):
            seeds = [Config.load(file).train.seed for file in files]
            if seeds[0] != seeds[1]:
                raise LuminaError(
                    "E002",
                    f"{one} has the seed {seeds[0]} and {two} the seed {seeds[1]}",
                    "name the runs of both sides in the order of their seeds, or leave "
                    "--paired out",
                )


def _text(found: Comparison) -> str:
    """The table, the flips and the advice."""
    from lumina.infer.evaluation_tasks.comparing import comparison_text

    rows = comparison_text(found)
    lines = [
        f"baseline   {', '.join(found.baseline)}",
        f"candidate  {', '.join(found.candidate)}",
        "",
        table(rows[0], rows[1:], right="baseline candidate difference p"),
        "",
        "p is Holm's, of all rows together; by "
        + ", ".join(dict.fromkeys(row.difference.test for row in found.rows)),
    ]
    lines += [
        f"{task}: right in both {flips.both:,}, in neither {flips.neither:,}, only in "
        f"the baseline {len(flips.lost):,}, only in the candidate {len(flips.won):,}"
        for task, flips in found.flips.items()
    ]
    return "\n".join([*lines, f"{found.advice}: {found.reason}"])


def _lost(found: Comparison, candidate: TaskResults, most: int) -> list[str]:
    """Questions that only the baseline answered rightly, in words."""
    from lumina.infer.evaluation_tasks.error_analysis import in_words

    lines: list[str] = []
    for task, flips in found.flips.items():
        answers = {one["id"]: one for one in candidate.tasks[task].examples}
        for name in flips.lost[:most]:
            lines += ["", f"{task} {name}", *in_words(answers[name])]
    return lines
