"""Several tasks: what goes together with them, and what does nothing."""

from __future__ import annotations

from lumina.config.rules.refusing import refuse
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings
from lumina.config.task_paths import paths_by_task
from lumina.errors import LuminaError

_OF_ONE_TASK = {
    "train_data": "every task names its own data",
    "eval_data": "name held-out files with task_eval_data",
}
"""Options of the data that do not go together with tasks, and why."""

TASK_OPTIONS = (
    "task_eval_data", "task_sampling_strategy", "task_weights", "task_balancing",
    "task_balancing_window",
)  # fmt: skip


def check(settings: Settings) -> None:
    """Refuse tasks that make no sense.

    Raises:
        LuminaError: E005 for an entry or a weight that is none, E002 for settings that
            do not go together.
    """
    names = list(paths_by_task(settings.data.tasks, "tasks"))
    held_out = paths_by_task(settings.data.task_eval_data, "task_eval_data")
    weights = settings.train.task_weights
    if not names:
        return
    if len(names) == 1:
        refuse(f"{names[0]} is the only task", "name its data with --train-data")
    for leaf, why in _OF_ONE_TASK.items():
        if settings.get(leaf):
            refuse(
                f"{leaf} {settings.get(leaf)} does not go with tasks: {why}",
                f"leave {leaf} out, or tasks",
            )
    if strange := sorted(held_out.keys() - set(names)):
        refuse(
            f"task_eval_data names {', '.join(strange)}, which is no task",
            f"tasks are {', '.join(names)}",
        )
    if weights and len(weights) != len(names):
        refuse(
            f"{len(weights)} task_weights for {len(names)} tasks",
            f"give one each, in the order {', '.join(names)}",
        )
    if weights and (min(weights) < 0 or sum(weights) == 0):
        raise LuminaError(
            "E005",
            f"task_weights cannot be {list(weights)}",
            "weights are at least 0, and not all of them 0",
        )


def without_effect(settings: Settings) -> dict[str, str]:
    """Options of tasks without effect, and why."""
    if not settings.data.tasks:
        return dict.fromkeys(TASK_OPTIONS, "there are no tasks")
    unused = {}
    if settings.train.task_balancing == "none":
        unused["task_balancing_window"] = "task_balancing is none"
    names = {entry.partition("=")[0] for entry in settings.data.tasks}
    held_out = {entry.partition("=")[0] for entry in settings.data.task_eval_data}
    if names <= held_out:
        unused["eval_fraction"] = "task_eval_data is given for every task"
    return unused


RULE = Rule(check=check, without_effect=without_effect)
