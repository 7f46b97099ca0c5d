"""Several tasks: their options and their shape."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lumina.config.task_paths import task_names
from lumina.model.spec import ModelSpec, TaskSpec
from lumina.plan.kinds.kind import Known, Planned

if TYPE_CHECKING:
    from lumina.config import Config


class Tasks(Planned):
    """A head for each task."""

    field = "tasks"

    def chosen(self, config: Config) -> bool:
        """Whether there are tasks."""
        return bool(config.data.tasks)

    def resolve(self, config: Config, spec: ModelSpec, known: Known) -> ModelSpec:
        """The shape with the heads."""
        return replace(spec, tasks=_tasks(config))

    def options(self, spec: ModelSpec) -> dict[str, Any]:
        """None: tasks come with their data, see `lumina.state.task_heads`."""
        return {}


def _tasks(config: Config) -> TaskSpec:
    """The tasks and their weights, together one."""
    weights = config.train.task_weights
    return TaskSpec(
        names=task_names(config),
        weights=tuple(weight / sum(weights) for weight in weights),
        balancing=config.train.task_balancing,
        balancing_window=config.train.task_balancing_window,
    )
