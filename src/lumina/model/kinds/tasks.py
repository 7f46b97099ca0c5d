"""Several tasks: one backbone with a head for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lumina.model.kinds.kind import Kind, Memory, Running
from lumina.model.plain_tensors import head
from lumina.model.spec import ModelSpec, TaskSpec
from lumina.model.tensors import Shape, Tensors, add, remove

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from lumina.batch import Batch
    from lumina.model.interface import LossSums

STATISTICS = "task.statistics"
"""[tasks, 3]: cross entropy, counted tokens, and the weight of each task's loss."""


class Tasks(Kind):
    """Rows belong to tasks, and each task has a head."""

    name = "tasks"
    memory_key = "task_weights"

    def words(self, spec: ModelSpec) -> list[str]:
        """The tasks."""
        return [f"a head each for the tasks {', '.join(_tasks(spec).names)}"]

    def loading_options(self, spec: ModelSpec) -> list[str]:
        """The first task, whose head answers."""
        return ["--task", _tasks(spec).names[0]]

    def no_graph(self, spec: ModelSpec) -> str:
        """It has several heads."""
        return (
            "a graph has one head and this model has one for each task (--task "
            "chooses one)"
        )

    def declare(self, spec: ModelSpec, tensors: Tensors) -> None:
        """A head for each task in place of the only one."""
        remove(tensors, "objective.head")
        count = len(_tasks(spec).names)
        for task in range(count):
            add(tensors, head(f"objective.heads.{task}", spec, count))

    def objective(self, spec: ModelSpec, loss_chunk_bytes: int) -> nn.Module | None:
        """A head for each task."""
        from lumina.model.objective.multi_task import MultiTaskObjective

        return MultiTaskObjective(spec, loss_chunk_bytes)

    def settle(self, spec: ModelSpec, losses: LossSums, batch: Batch) -> None:
        """The tasks' losses and tokens."""
        from lumina.model.objective.multi_task import task_statistics

        losses.aux[STATISTICS] = task_statistics(losses)

    def counts(self, spec: ModelSpec) -> Mapping[str, Shape]:
        """`STATISTICS`."""
        return {STATISTICS: (len(_tasks(spec).names), 3)}

    def memory(self, spec: ModelSpec, device: torch.device) -> Memory | None:
        """The weights of the tasks' losses, where tasks and not tokens are averaged."""
        if not _tasks(spec).weighted:
            return None
        from lumina.model.objective.task_weights import TaskWeights

        return TaskWeights(_tasks(spec), device)

    def loss(
        self, running: Running, losses: LossSums, task_loss_tokens: tuple[float, ...]
    ) -> Tensor | None:
        """The weighted sum of the tasks' means; None where every token counts the same.

        A task without a token in this step adds nothing.
        """
        weights = running.memories.get(self.memory_key)
        if weights is None:
            return None
        return weights.loss(losses, task_loss_tokens)  # type: ignore[no-any-return]

    def note(self, running: Running, counted: Mapping[str, Tensor]) -> None:
        """The weights that the step ran with."""
        weights = running.memories.get(self.memory_key)
        if weights is not None:
            counted[STATISTICS][:, 2] = weights.now

    def after(
        self, running: Running, counted: Mapping[str, Tensor], skip: Tensor
    ) -> None:
        """Weights that follow how fast each loss falls."""
        weights = running.memories.get(self.memory_key)
        if weights is not None:
            weights.update(counted[STATISTICS][:, :2], skip)

    def metrics(self, plan: Any, counted: Mapping[str, Tensor]) -> dict[str, Any]:
        """Of each task: its mean loss, its share of the counted tokens, its weight.

        A task without a token in the step has no loss; without weights there is none.
        """
        tasks, statistics = _tasks(plan.spec), counted[STATISTICS]
        total = max(float(statistics[:, 1].sum()), 1.0)
        row: dict[str, Any] = {}
        for name, values in zip(tasks.names, statistics.tolist(), strict=True):
            loss, tokens, weight = values
            row[f"task.{name}.loss"] = loss / tokens if tokens else None
            row[f"task.{name}.tokens"] = tokens / total
            if tasks.weighted:
                row[f"task.{name}.weight"] = weight
        return row


def _tasks(spec: ModelSpec) -> TaskSpec:
    assert spec.tasks is not None
    return spec.tasks
