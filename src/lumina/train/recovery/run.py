"""What recovery needs of a run under way."""

from __future__ import annotations

from typing import Any, Protocol

from lumina.assemble.assemble import Progress
from lumina.assemble.host_copies import HostCopies
from lumina.assemble.program import Program
from lumina.data.stream import RowStream
from lumina.plan.plan import Plan
from lumina.state.checkpoint import CheckpointStore
from lumina.state.state import State
from lumina.train.best import Best
from lumina.train.controls import Controls
from lumina.train.evaluations import Evaluations
from lumina.train.recorder import Recorder
from lumina.train.rules import RunningRules
from lumina.train.saving import Saving


class Run(Protocol):
    """A run between its first and last step; attributes as of `Loop`."""

    program: Program
    progress: Progress
    recorder: Recorder
    checkpoints: CheckpointStore
    controls: Controls
    evaluations: Evaluations
    rules: RunningRules
    best: Best
    stream: RowStream
    config: dict[str, Any]
    encoding: dict[str, str]
    saving: Saving

    @property
    def plan(self) -> Plan:
        """What the present program realises."""

    def state(self, copies: HostCopies | None = None) -> State:
        """The State of the run; each rank has the tensors that it would write."""
