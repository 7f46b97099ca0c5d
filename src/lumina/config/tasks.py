"""Several tasks: how options write them, and what goes together with them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from lumina.config.refusing import refuse
from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.config.config import Config

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def paths_by_task(entries: Iterable[str], leaf: str) -> dict[str, tuple[str, ...]]:
    """Each task's paths, tasks in the order of their first mention.

    Args:
        entries: `NAME=PATH`; a name may come several times.
        leaf: the option, for errors.

    Raises:
        LuminaError: E005 for an entry that is no such pair.
    """
    found: dict[str, tuple[str, ...]] = {}
    for entry in entries:
        name, equals, path = entry.partition("=")
        if not (equals and path.strip() and _NAME.fullmatch(name)):
            raise LuminaError(
                "E005",
                f"{leaf} cannot be {entry!r}",
                "write NAME=PATH; a name has letters, digits, - and _, and begins "
                "with a letter",
            )
        found[name] = (*found.get(name, ()), path)
    return found


_ALONE = {
    "train_data": "every task names its own data",
    "eval_data": "name held-out files with task_eval_data",
    "tie_embeddings": "every task has a head of its own",
    "use_hrm": "a reasoner has one task",
    "objective": "every task has a head and a cross entropy",
    "expert_id": "an expert trains on one task",
}
"""Options that do not go together with tasks, and why."""

TASK_OPTIONS = (
    "task_eval_data", "task_sampling_strategy", "task_weights", "task_balancing",
    "task_balancing_window",
)  # fmt: skip


def check_tasks(config: Config) -> None:
    """Refuse tasks that make no sense.

    Raises:
        LuminaError: E005 for an entry or a weight that is none, E002 for settings that
            do not go together.
    """
    names = list(paths_by_task(config.data.tasks, "tasks"))
    held_out = paths_by_task(config.data.task_eval_data, "task_eval_data")
    weights = config.train.task_weights
    if not names:
        return
    if len(names) == 1:
        refuse(f"{names[0]} is the only task", "name its data with --train-data")
    for leaf, why in _ALONE.items():
        if config.get(leaf):
            refuse(
                f"{leaf} {config.get(leaf)} does not go with tasks: {why}",
                "use --no-tie-embeddings"
                if leaf == "tie_embeddings"
                else f"leave {leaf} out, or tasks",
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


def idle_tasks(config: Config) -> dict[str, str]:
    """Options of tasks without effect, and why."""
    if not config.data.tasks:
        return dict.fromkeys(TASK_OPTIONS, "there are no tasks")
    idle = {}
    if config.train.task_balancing == "none":
        idle["task_balancing_window"] = "task_balancing is none"
    names = {entry.partition("=")[0] for entry in config.data.tasks}
    held_out = {entry.partition("=")[0] for entry in config.data.task_eval_data}
    if names <= held_out:
        idle["eval_fraction"] = "task_eval_data is given for every task"
    return idle
