"""Snapshots of a run in host memory: which stay, and which are known to be good."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

from lumina.assemble.host_copies import HostCopies
from lumina.state.state import State
from lumina.train.recovery.run import Run
from lumina.train.recovery.targets import Target


@dataclass
class Snapshot:
    """A State in host memory.

    Attributes:
        state: with the tensors that this rank would write into a checkpoint.
        copies: the memory that they are in; None: they are on their own.
        good: many steps without an alarm have followed it.
    """

    state: State
    copies: HostCopies | None = None
    good: bool = False


class Snapshots:
    """The snapshots of a run, on one rank; every rank has those of the same steps.

    The newest stay, and so does the newest that is known to be good.

    Args:
        most: how many are held at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: dict[int, Snapshot] = {}
        self._free: list[HostCopies] = []

    def targets(self) -> list[Target]:
        """What can be gone back to."""
        return [Target(step, None, one.good) for step, one in self._held.items()]

    def state(self, step: int) -> State:
        """The State of a step of which there is a snapshot."""
        return self._held[step].state

    def take(self, run: Run) -> None:
        """Take one of the run as it is; all ranks call it together.

        On a GPU the copy is made beside the next step, which waits for it before it
        changes a weight.
        """
        while len(self._held) >= self._most:
            self._drop(self._oldest())
        copies = None
        if run.program.copies_beside_steps:
            copies = self._free.pop() if self._free else HostCopies(run.program.device)
            run.program.captures = [copies]
        self.put(run.state(copies), copies=copies)

    def put(
        self, state: State, *, copies: HostCopies | None = None, good: bool = False
    ) -> None:
        """Hold a State; what it remembers is copied, for the run goes on with it."""
        mine = replace(
            state,
            cursor=copy.deepcopy(state.cursor),
            journal=copy.deepcopy(state.journal),
            extra=copy.deepcopy(state.extra),
        )
        self.drop(state.step)
        self._held[state.step] = Snapshot(mine, copies, good)

    def promote(self, step: int) -> None:
        """The snapshot of a step, if there is one, is known to be good."""
        if step in self._held:
            self._held[step].good = True

    def drop(self, step: int) -> None:
        """Let go of the snapshots of a step and of later ones."""
        for later in [held for held in self._held if held >= step]:
            self._drop(later)

    def close(self) -> None:
        """Let go of everything."""
        self.drop(0)
        while self._free:
            self._free.pop().close()

    def _oldest(self) -> int:
        """The step of the snapshot that is missed least."""
        good = max((step for step, one in self._held.items() if one.good), default=None)
        return min(step for step in self._held if step != good)

    def _drop(self, step: int) -> None:
        copies = self._held.pop(step).copies
        if copies is not None:
            self._free.append(copies)
