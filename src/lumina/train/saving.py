"""The checkpoints of a run: when it writes one, and how."""

from __future__ import annotations

import time
from typing import Any, Protocol

from lumina.assemble.assemble import (
    Progress,
    memory_for_copies,
    other_memory_for_copies,
)
from lumina.assemble.host_copies import HostCopies, room_for
from lumina.assemble.program import Program
from lumina.assemble.state_parts import as_saved
from lumina.heartbeat import beat
from lumina.plan.plan import Plan
from lumina.state.checkpoint import CheckpointStore, Kind
from lumina.state.state import State
from lumina.train.end_of_run import EndOfRun
from lumina.train.memory_ladder.beside_steps import once_more
from lumina.train.recorder import Recorder


class Run(Protocol):
    """What saving needs of the loop; attributes as of `Loop`."""

    program: Program
    progress: Progress
    recorder: Recorder
    checkpoints: CheckpointStore
    config: dict[str, Any]
    end: EndOfRun

    def state(self, copies: HostCopies | None = None) -> State:
        """The State of the run; each rank has the tensors that it would write."""


class Saving:
    """Decides when a run saves, and saves it.

    A checkpoint that a signal or the clock asks for comes to one rank first. That rank
    asks (`is_asked`), its step tells the others, and all save after the same step.

    Args:
        newest: the step of the newest checkpoint; -1: there is none.
        every_hours: hours between two checkpoints; None: only steps count.

    Attributes:
        newest: the step of the newest checkpoint; -1: there is none.
        agreed: every rank knows that a checkpoint was asked for.
    """

    def __init__(self, newest: int = -1, every_hours: float | None = None) -> None:
        self.newest = newest
        self.agreed = False
        self._every_hours = every_hours
        self._last_time = time.monotonic()
        self._asked_before = False

    @staticmethod
    def is_due(plan: Plan, step: int) -> bool:
        """Whether the plan has a checkpoint after a step."""
        return bool(plan.save_every and step % plan.save_every == 0)

    def is_asked(self, run: Run) -> bool:
        """Whether this rank wants a checkpoint after the next step."""
        by_signal = run.end.signals.take_save()
        by_clock = run.program.ranks.main and self._hours_are_over()
        return self._asked_before or by_signal or by_clock

    def _hours_are_over(self) -> bool:
        if self._every_hours is None:
            return False
        return time.monotonic() - self._last_time >= 3600 * self._every_hours

    def ask_again(self, asked: bool) -> None:
        """Remember what was asked for before a step that is taken again."""
        self._asked_before = asked

    def agree(self) -> None:
        """Save after the next step; every rank calls it at the same one."""
        self.agreed = True

    def save_as_agreed(self, run: Run) -> None:
        """The checkpoint that all ranks agreed on; they are at the same step."""
        if run.recorder.consecutive_skips:
            return  # while gradients are not finite, the request waits
        self.agreed = False
        if self.newest != run.progress.step:
            self.save(run, "regular")

    def save(self, run: Run, kind: Kind) -> None:
        """Copy the State now, and write it while the next steps run.

        A best model that finds the disk busy waits in memory, so that steps do not wait
        for it, and a better one takes its place. `catch_up` writes it once the disk is
        free.

        Raises:
            LuminaError: E204 when the disk has no room, E201 or E202 when the memory
                has none.
        """
        step, store = run.progress.step, run.checkpoints
        if store.mark(step, kind):
            return
        beat("saving", step)
        holds = kind == "best" and self._may_hold(run)
        if holds and store.held is None:
            copies = other_memory_for_copies(run.program)
        else:
            copies = memory_for_copies(run.program)
        if holds:
            store.let_go()
        elif copies is not None:
            store.write_held()
            store.idle()  # what is being written may be in the same memory
        state = once_more(
            lambda: run.state(copies), run.state, run.program.captures_alone
        )
        state = as_saved(state, run.config)
        if holds:
            store.hold(state, kind)
        else:
            store.save(state, kind=kind, already_snapshot=True)
        self.newest = step
        self._last_time = time.monotonic()

    @staticmethod
    def _may_hold(run: Run) -> bool:
        """Whether a State is to wait in memory; the same on all ranks."""
        store, program = run.checkpoints, run.program
        agree = program.mesh.everyone.any_
        if not agree(store.busy):
            return False
        if store.held is not None:
            return True  # its memory is there
        there = program.spare_copies is not None
        room = there or room_for(store.newest_bytes, program.ranks.local_size)
        return not agree(not room)

    @staticmethod
    def catch_up(run: Run) -> None:
        """Begin to write what waits in memory, once no rank is writing any more."""
        store = run.checkpoints
        if store.held is None:
            return
        if not run.program.mesh.everyone.any_(store.busy):
            store.write_held()
