"""`lumina evaluate`: loss and perplexity on files, or answers to tasks' questions."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumina.cli.answering import (
    add_device_options,
    add_weights_options,
    model_path,
    row_progress,
    tell,
)
from lumina.cli.cache_options import add_cache_options, cache_settings
from lumina.cli.evaluation_tasks import (
    add_task_options,
    files_by_task,
    how_asked,
    refuse_without_tasks,
    show_and_write,
    tasks_text,
)
from lumina.cli.streams import output_is_unicode
from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.infer.evaluate import Evaluation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    model = parser.add_argument_group("model")
    add_weights_options(model)
    add_device_options(model)
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="files, folders or globs (.txt, .jsonl), as --train-data of `train`",
    )
    data.add_argument(
        "--loss-on",
        metavar="TEXT",
        help="what of a conversation counts: all, last, or roles joined by commas; "
        "default: as the run was trained, and for an exported folder assistant",
    )
    data.add_argument(
        "--format",
        metavar="TEXT",
        help="the form of the records, as of `train`; default: as the run was trained",
    )
    data.add_argument(
        "--field",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=FIELD",
        help="fields of the records under other names; default: as the run was trained",
    )
    data.add_argument(
        "--data-errors",
        choices=("fatal", "skip"),
        default="fatal",
        help="a bad record: stop, or skip it and say so; default: fatal",
    )
    data.add_argument(
        "--seq-length", type=int, metavar="N",
        help="tokens that the model reads at a time; default: as it was trained",
    )  # fmt: skip
    data.add_argument(
        "--batch-size", type=int, metavar="N",
        help="rows side by side; changes the memory it takes, not the result",
    )  # fmt: skip
    tasks = parser.add_argument_group("tasks, in place of data")
    add_task_options(tasks)
    tasks.add_argument(
        "--output",
        metavar="FILE",
        help="a new file for figures and answers; default: in the run's folder "
        "evaluations",
    )
    tasks.add_argument(
        "--errors",
        type=int,
        metavar="N",
        help="show N wrong answers of each task, those that the model was surest of",
    )
    tasks.add_argument(
        "--list-tasks", action="store_true", help="explain every task, and end"
    )
    add_cache_options(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the result."""
    from lumina.infer.evaluate import evaluate
    from lumina.infer.kv.settings import CacheSettings
    from lumina.model.registry import load_plugins

    load_plugins(args.plugins)
    if args.list_tasks:
        print(tasks_text())
        return 0
    cache = cache_settings(args)
    named = None if cache == CacheSettings() else cache
    if args.tasks:
        _refuse_beside_tasks(args, named is not None)
        return _on_tasks(args)
    if not args.data:
        raise LuminaError(
            "E005",
            "nothing to evaluate on is named",
            "--data FILE for the loss, or --tasks NAME=FILE for questions; "
            "--list-tasks explains the tasks",
        )
    refuse_without_tasks(args)
    for option in ("output", "errors"):
        if getattr(args, option):
            raise LuminaError(
                "E002",
                f"--{option} does nothing without --tasks",
                "leave it out; the figures of --data are printed: --json > FILE",
            )
    outcome = evaluate(
        model_path(args),
        args.data,
        seq_length=args.seq_length,
        loss_on=args.loss_on,
        format=args.format,
        field=args.field,
        cache=named,
        **_how_evaluated(args),
    )
    if args.json:
        print(json.dumps(outcome.to_dict(), ensure_ascii=not output_is_unicode()))
    else:
        print(_text(outcome))
    return 0


def _how_evaluated(args: argparse.Namespace) -> dict[str, Any]:
    """What is the same for texts and for tasks: the model, rows, and what is told."""
    return {
        "device": args.device,
        "precision": args.precision,
        "which": "best" if args.best else "latest",
        "ema": args.ema,
        "task": args.task,
        "adapters": args.adapter,
        "batch_size": args.batch_size,
        "data_errors": args.data_errors,
        "on_event": tell,
        "on_rows": row_progress(),
    }


_OF_DATA = ("data", "loss_on", "format", "field", "seq_length")


def _refuse_beside_tasks(args: argparse.Namespace, cache: bool) -> None:
    """Refuse what tasks do not read."""
    for option in _OF_DATA:
        if getattr(args, option):
            raise LuminaError(
                "E002",
                f"--{option.replace('_', '-')} does not go together with --tasks",
                "evaluate on --data in a command of its own",
            )
    if cache:
        raise LuminaError(
            "E002",
            "tasks are not asked with a cache of another kind",
            "measure what it costs with --data",
        )


def _on_tasks(args: argparse.Namespace) -> int:
    """Ask the questions of tasks."""
    from lumina.infer.evaluation_tasks.results import check_new_file
    from lumina.infer.evaluation_tasks.running import evaluate_tasks

    model = model_path(args)
    output = args.output
    if output is not None:
        check_new_file(Path(output))
    results = evaluate_tasks(
        model,
        files_by_task(args.tasks, "--tasks"),
        **_how_evaluated(args),
        **how_asked(args),
    )
    show_and_write(results, model, output, args.json, args.errors or 0)
    return 0


def _text(outcome: Evaluation) -> str:
    """The result, a line for each figure."""
    bits = outcome.bits_per_byte
    lines = [
        ("model", outcome.model),
        ("loss", f"{outcome.loss:.6f} nats a token"),
        ("perplexity", f"{outcome.perplexity:,.4f}"),
        (
            "bits per byte",
            "none: no text bears loss" if bits is None else f"{bits:.6f}",
        ),
        (
            "tokens",
            f"{outcome.tokens:,} with a loss, of {outcome.documents:,} documents "
            f"({outcome.bytes:,} bytes of text), in rows of {outcome.row_length:,}",
        ),
    ]
    if outcome.accuracy is not None:
        lines.append(
            ("accuracy", f"{outcome.accuracy:.2%} of the tokens guessed right")
        )
    if outcome.segments is not None:
        lines.append(("segments", f"{outcome.segments:.2f} of a token on average"))
    if outcome.cache is not None:
        lines.append(("with this cache", outcome.cache.to_text()))
    if outcome.skipped:
        lines.append(("skipped", f"{outcome.skipped:,} bad records"))
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)
