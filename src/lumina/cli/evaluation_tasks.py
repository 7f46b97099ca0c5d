"""`lumina evaluate --tasks`: what stands behind it, and what it prints and writes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumina.cli.streams import output_is_unicode
from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.infer.evaluation_tasks.results import TaskResults

OPTIONS = (
    "shots", "shots_data", "limit", "task_option", "too_long", "chat",
)  # fmt: skip
"""Options that say how tasks are asked, and do nothing without `--tasks`."""


def add_task_options(group: argparse._ArgumentGroup) -> None:
    """Declare which tasks are asked, and how."""
    group.add_argument(
        "--tasks",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=FILE",
        help="evaluation tasks and local files of their questions, such as "
        "mmlu=mmlu/; --list-tasks explains them",
    )
    group.add_argument(
        "--shots",
        type=int,
        metavar="N",
        help="solved examples before each question; default: 0",
    )
    group.add_argument(
        "--shots-data",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=FILE",
        help="files that the solved examples of a task are taken from: the first ones, "
        "of the same group where the task has groups",
    )
    group.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="the first questions of each task alone; default: all",
    )
    group.add_argument(
        "--task-option",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME.OPTION=VALUE",
        help="an option of a task's own",
    )
    group.add_argument(
        "--too-long",
        choices=("refuse", "cut"),
        help="what the model does not read whole: refuse it, or leave out its "
        "beginning and count it; default: refuse",
    )
    group.add_argument(
        "--chat",
        action="store_true",
        help="ask in the form of a conversation, for models trained on those",
    )


def refuse_without_tasks(args: argparse.Namespace) -> None:
    """Refuse options of tasks where no task is named.

    Raises:
        LuminaError: E002.
    """
    for option in OPTIONS:
        if getattr(args, option):
            raise LuminaError(
                "E002",
                f"--{option.replace('_', '-')} does nothing without --tasks",
                "add --tasks NAME=FILE, or leave it out",
            )


def how_asked(args: argparse.Namespace) -> dict[str, Any]:
    """The options that `evaluate_tasks` has of the same names."""
    return {
        "shots": args.shots or 0,
        "shots_data": files_by_task(args.shots_data, "--shots-data"),
        "limit": args.limit,
        "options": _own_options(args.task_option),
        "too_long": args.too_long or "refuse",
        "chat": args.chat,
    }


def files_by_task(words: Sequence[str], option: str) -> dict[str, list[str]]:
    """Name of a task -> its files, from words such as mmlu=FILE.

    Raises:
        LuminaError: E005 for a word without a name or a file.
    """
    found: dict[str, list[str]] = {}
    for word in words:
        name, _, file = word.partition("=")
        if not name or not file:
            raise LuminaError(
                "E005",
                f"{option} {word!r} names no task and its file",
                "such as mmlu=mmlu/test.parquet; `lumina evaluate --list-tasks` names "
                "the tasks",
            )
        found.setdefault(name, []).append(file)
    return found


def _own_options(words: Sequence[str]) -> dict[str, dict[str, str]]:
    """Name of a task -> its options, from words such as toxicity.words=FILE."""
    found: dict[str, dict[str, str]] = {}
    for word in words:
        named, equals, value = word.partition("=")
        name, dot, option = named.partition(".")
        if not (name and dot and option and equals):
            raise LuminaError(
                "E005",
                f"--task-option {word!r} is not NAME.OPTION=VALUE",
                "`lumina evaluate --list-tasks` names the tasks and their options",
            )
        found.setdefault(name, {})[option] = value
    return found


def tasks_text() -> str:
    """Every task: what it measures, its records, its metrics and its options."""
    from lumina.infer.evaluation_tasks.task import TASKS, chosen_task

    lines: list[str] = []
    for name in TASKS.known():
        task = chosen_task(name)
        lines += [
            name,
            f"  measures  {task.words}",
            f"  source    {task.source}",
            f"  record    {task.record}",
        ]
        lines += [f"  metric    {one.name}: {one.words}" for one in task.metrics]
        lines += [
            f"  option    {name}.{option}={declared.default}"
            for option, declared in task.options.items()
        ]
    return "\n".join(lines)


def show_and_write(
    results: TaskResults,
    model: Path,
    output: str | None,
    as_json: bool,
    errors: int = 0,
) -> None:
    """Print results, and write them with every answer into a file.

    Args:
        results: what was found.
        model: the folder that was named.
        output: a new file; None: in the run's folder, where it is of a run.
        as_json: print JSON without the single answers, in place of the table.
        errors: wrong answers of each task that are shown, the surest first.
    """
    from lumina.cli.answering import say
    from lumina.infer.evaluation_tasks.error_analysis import in_words, wrong_of
    from lumina.infer.evaluation_tasks.results import write_beside, write_results

    if as_json:
        told = results.to_dict()
        for one in told["tasks"].values():
            del one["examples"]
        print(json.dumps(told, ensure_ascii=not output_is_unicode()))
    else:
        print(results.to_text())
        for one in results.tasks.values():
            for example in wrong_of(one, errors):
                name = f"{one.task} {example['id']}"
                print("\n".join(["", name, *in_words(example)]))
    run = folder_of_run(model)
    if output is not None:
        path = Path(output)
        write_results(results, path)
    elif run is not None:
        path = write_beside(results, run)
    else:
        say("no file is written: this is no run; --output FILE writes one")
        return
    say(f"every answer is in {path}")


def folder_of_run(model: Path) -> Path | None:
    """The run that a folder is, or that it is a checkpoint of; None: it is of none."""
    for folder in (model, *model.absolute().parents[:2]):
        if (folder / "checkpoints").is_dir():
            return folder
    return None
