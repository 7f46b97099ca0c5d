"""What several tasks cost."""

from __future__ import annotations

from lumina.model.spec import ModelSpec
from lumina.plan.costs.cost import Cost


class Tasks(Cost):
    """A head for each task."""

    field = "tasks"

    def heads(self, spec: ModelSpec) -> int:
        """One for each task."""
        assert spec.tasks is not None
        return len(spec.tasks.names)

    def hidden_copies(self, spec: ModelSpec) -> int:
        """The gradients of the tasks' rows, and then put together."""
        return 2
