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

    The newest that is known to be good stays, the oldest of those that are not yet, so
    that it comes to be, and of the others the newest. Where there is room for three,
    that of step 0 stays, too, until it is released: a run may have to begin again.

    Args:
        most: how many are held at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._keeps_begin = most >= 3
        self._held: dict[int, Snapshot] = {}
        self._marked: int | None = None
        self._free: list[HostCopies] = []

    def targets(self) -> list[Target]:
        """What can be gone back to."""
        return [Target(step, None, one.good) for step, one in self._held.items()]

    @property
    def marked(self) -> Target | None:
        """The snapshot that stays until the run has gone back to it."""
        step = self._marked
        return None if step is None else Target(step, None, self._held[step].good)

    def state(self, step: int) -> State:
        """The State of a step of which there is a snapshot."""
        return self._held[step].state

    def take(self, run: Run, marked: bool = False) -> None:
        """Take one of the run as it is; all ranks call it together.

        On a GPU the copy is made beside the next step, which waits for it before it
        changes a weight.

        Args:
            run: under way.
            marked: it stays until the run has gone back to it, in place of an earlier
                one that was marked.
        """
        if marked:
            self._marked = None
        if len(self._held) >= self._most:
            missed_least = self._missed_least(1 if marked else 2)
            if missed_least is None:
                return
            self._drop(missed_least)
        copies = None
        if run.program.copies_beside_steps:
            copies = self._free.pop() if self._free else HostCopies(run.program.device)
            run.program.captures = [copies]
        self.put(run.state(copies), copies=copies)
        if marked:
            self._marked = run.progress.step

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
        """The snapshot of a step, if there is one, is known to be good.

        Older ones are released, for it takes their place.
        """
        if step in self._held:
            self._held[step].good = True
            for older in [held for held in self._held if held < step]:
                if older != self._marked and (older or not self._keeps_begin):
                    self._drop(older)

    def forget_begin(self) -> None:
        """The snapshot of step 0 is one like any other from here on."""
        self._keeps_begin = False
        if 0 in self._held and any(one.good for at, one in self._held.items() if at):
            self._drop(0)

    def drop(self, step: int) -> None:
        """Release the snapshots of a step and of later ones."""
        for later in [held for held in self._held if held >= step]:
            self._drop(later)

    def close(self) -> None:
        """Release everything."""
        self.drop(0)
        while self._free:
            self._free.pop().close()

    def _missed_least(self, least: int) -> int | None:
        """The step of the snapshot that gives way to a new one; None: none does.

        Args:
            least: snapshots that are not yet good of which one can give way.
        """
        kept = 0 if self._keeps_begin else -1
        waiting = sorted(
            step
            for step, one in self._held.items()
            if not one.good and step > kept and step != self._marked
        )
        return waiting[min(len(waiting) - 1, 1)] if len(waiting) >= least else None

    def _drop(self, step: int) -> None:
        copies = self._held.pop(step).copies
        if step == self._marked:
            self._marked = None
        if copies is not None:
            self._free.append(copies)
