"""A step that runs out of memory is done again with less of it, and the run goes on."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor

from lumina.assemble.assemble import Progress
from lumina.assemble.emptying import empty_cache
from lumina.assemble.program import Program
from lumina.config.sections.memory_ladder import MemoryLadderSection
from lumina.errors import LuminaError
from lumina.memory_shortage import shortage_code, shortage_text
from lumina.plan.environment import Environment
from lumina.plan.plan import Plan
from lumina.state.checkpoint import Kind
from lumina.train.controls import Change, Controls, control_named
from lumina.train.memory_ladder.guard import OthersLackMemoryError, StepGuard
from lumina.train.memory_ladder.limits import Limits, held_values, key_of
from lumina.train.memory_ladder.rung import Attempt, numbers_after, rungs
from lumina.train.memory_ladder.shortage import Before, Shortage, figures
from lumina.train.recorder import Recorder

QUIET_STEPS = 50
"""A cache that was emptied fewer steps ago is no answer to another failure."""


class Run(Protocol):
    """What the ladder needs of the loop."""

    program: Program
    progress: Progress
    recorder: Recorder
    controls: Controls

    @property
    def plan(self) -> Plan:
        """What the program realises."""

    def save(self, kind: Kind) -> None:
        """A checkpoint now."""

    def settle(self) -> None:
        """Give up a step that broke off, and write the rows of those before it."""

    def apply(self, change: Change) -> None:
        """Set a control, and journal it."""


@dataclass
class MemoryRecovery:
    """Answers steps without memory.

    Attributes:
        on: whether steps are done again; else the run ends.
        limits: where what the run needed is kept for the next one; None: nowhere.
        clear_every: steps after which the cache is emptied; 0: never.
        guard: follows the steps.
    """

    on: bool = True
    limits: Limits | None = None
    clear_every: int = 0
    guard: StepGuard = field(default_factory=StepGuard)
    _cleared: int | None = None
    _host_lacked: bool = False
    _tried: list[Attempt] = field(default_factory=list)
    _refused: set[str] = field(default_factory=set)

    @staticmethod
    def of(
        asked: MemoryLadderSection, plan: Plan, machine: Environment, run: Path
    ) -> MemoryRecovery:
        """For a run.

        Args:
            asked: its options.
            plan: what it begins with.
            machine: where it runs.
            run: its directory.
        """
        return MemoryRecovery(
            on=asked.memory_recovery,
            limits=Limits(key_of(plan, machine), str(run.resolve())),
            clear_every=asked.clear_cache_every_n_steps,
        )

    def attempt(
        self, run: Run, forwards: int, step: Callable[[], Tensor]
    ) -> Tensor | None:
        """Take a step.

        Args:
            run: the loop.
            forwards: of the step on this rank.
            step: takes it.

        Returns:
            What the step returns; None where it lacked memory and is to be taken again,
            by the program that `run` has by then.

        Raises:
            LuminaError: E201 or E202 when there is nothing left to try, or where a rank
                failed inside an exchange with others.
        """
        program = run.program
        before = Before.of(program)
        self.guard.begin(program, forwards)
        try:
            values = step()
        except Exception as error:
            shortage = self._shortage(error)
            if shortage is None:
                self._take_back(program, before)
                raise
        else:
            self._fitted(run)
            return values
        # The frames of the step are gone here, and with them the tensors they held.
        self._answer(run, shortage, before)
        return None

    def _take_back(self, program: Program, before: Before) -> None:
        """Undo what the forwards of a step did that another error broke off.

        The weights are then those of the step before, and can be saved; not where they
        were being changed, nor where the device no longer answers.
        """
        if self.guard.updating:
            return
        try:
            before.restore(program)
        except Exception:  # the error of the step is the one to tell
            self.guard.updating = True

    def threads(self, wanted: int) -> int:
        """How many threads may read ahead: none once the host has lacked memory.

        Each takes a stack and the batches that it makes.
        """
        return 0 if self._host_lacked else wanted

    def after_step(self, step: int) -> None:
        """Empty the cache where that is due; `step` steps are complete."""
        if self.clear_every and step % self.clear_every == 0:
            empty_cache()

    def _shortage(self, error: Exception) -> Shortage | None:
        """What an exception says about memory; None: something else is wrong.

        Raises:
            LuminaError: another rank has ended for want of memory.
        """
        if isinstance(error, OthersLackMemoryError):
            return Shortage("E201", "another rank has no memory", mine=False)
        code = shortage_code(error)
        if code is not None:
            return Shortage(code, shortage_text(error))
        if word := self.guard.word_of_others():
            raise LuminaError("E201", word, GO_ON) from error
        return None

    def _answer(self, run: Run, shortage: Shortage, before: Before) -> None:
        """Take the step back, and prepare another attempt.

        Raises:
            LuminaError: the run cannot go on.
        """
        together = not self.guard.updating and self._together(shortage)
        if not together:
            self._end_broken(run, shortage)
        evidence = figures(run.program) | {"text": shortage.text}
        before.restore(run.program)
        mine = torch.tensor([float(shortage.mine)])
        short = run.program.mesh.everyone.stack(mine).flatten().tolist()
        evidence["ranks"] = [rank for rank, one in enumerate(short) if one]
        self._go_down(run, shortage, evidence)

    def _go_down(self, run: Run, shortage: Shortage, evidence: dict[str, Any]) -> None:
        """Take the next rung.

        Raises:
            LuminaError: there is none.
        """
        cleared = self._cleared_lately(run.progress.step)
        wanted = next_attempt(run.plan, cleared, self._refused) if self.on else None
        if wanted is None:
            raise self._ended(run, shortage)
        self._tried.append(wanted)
        self._host_lacked |= shortage.code == "E202"
        run.settle()
        self._tell(run, shortage, wanted, evidence)
        self._carry_out(run, wanted)

    def _tell(
        self, run: Run, shortage: Shortage, wanted: Attempt, evidence: dict[str, Any]
    ) -> None:
        """What was seen, and what is done about it."""
        step = run.progress.step
        numbers = numbers_after(run.plan, [wanted.rung])
        run.recorder.event(
            "out_of_memory",
            "warning",
            shortage.code,
            f"step {step + 1} had no room ({shortage.text}): {wanted.text}, and the "
            "step is taken again" + (f"; {numbers}" if numbers else ""),
            step=step,
            rung=wanted.rung,
            control=wanted.control or None,
            value=wanted.value,
            numbers=numbers or "as they were",
            **evidence,
        )

    def _together(self, shortage: Shortage) -> bool:
        """Whether all ranks have left the step at one place."""
        if not shortage.mine:
            return True
        return self.guard.tell_others() or self.guard.all_failed_here()

    def _cleared_lately(self, step: int) -> bool:
        return self._cleared is not None and step - self._cleared < QUIET_STEPS

    def _carry_out(self, run: Run, wanted: Attempt) -> None:
        """Empty the cache, or assemble the program for the rung."""
        empty_cache()
        self._cleared = run.progress.step
        name = wanted.control
        several = run.program.mesh.everyone.size > 1
        if not name and not several:
            return
        # A wrapper that broke off in the middle of a step is made again.
        number = run.program.ranks.share(run.controls.next_id())
        value = wanted.value
        if not name:
            name, value = "micro_batch_size", run.plan.micro_batch_size
        reason = f"step {run.progress.step + 1} ran out of memory"
        change = Change(number, name, value, reason, "memory_ladder")
        shortage = self._applied(run, change)
        if change.outcome != "applied":
            self._refused.add(wanted.rung)
        if shortage is not None:
            self._go_down(run, shortage, figures(run.program) | {"text": shortage.text})

    def _applied(self, run: Run, change: Change) -> Shortage | None:
        """Assemble the program for a rung; returns why there was no room for it.

        The Plan is then that of the rung, and the State waits in host memory, so that
        the next rung can be taken.

        Raises:
            LuminaError: there was no room, and nothing to go on with: another process
                is inside of an exchange, or the State could not be copied.
        """
        try:
            run.apply(change)
            return None
        except Exception as error:
            code = shortage_code(error)
            if code is None:
                raise
            text = shortage_text(error)
            alone = run.program.mesh.everyone.size == 1
            if not alone or run.program.remains is None:
                if self.limits is not None and run.program.ranks.main:
                    held = held_values(run.plan) | {change.name: change.value}
                    self.limits.remember(held, text, proven=False)
                said = f"no room to assemble the program again: {text}"
                raise LuminaError(code, said, GO_ON) from error
        # The frames of what was half assembled are gone here.
        empty_cache()
        if getattr(run.plan, change.name) == change.value:
            change.outcome = "applied"
        run.controls.record(change)
        return Shortage(code, f"to assemble the program again: {text}")

    def _fitted(self, run: Run) -> None:
        """A step has fitted: what it needed is kept for the next run."""
        if not self._tried:
            return
        climbed = [one for one in self._tried if one.control]
        self._tried = []
        text = "; ".join(one.text for one in climbed) or "the cache was emptied"
        run.recorder.event(
            "memory_recovered",
            "info",
            None,
            f"step {run.progress.step + 1} fits: {text}",
            step=run.progress.step,
            **held_values(run.plan),
        )
        if climbed and self.limits is not None and run.program.ranks.main:
            self.limits.remember(held_values(run.plan), text, proven=True)

    def _ended(self, run: Run, shortage: Shortage) -> LuminaError:
        """Nothing is left to try; every rank is here with the weights of a step."""
        plan, step = run.plan, run.progress.step
        saved = "what was learned so far is saved"
        try:
            run.save("emergency")
        except Exception as error:
            if shortage_code(error) is None:
                raise
            saved = "there was no room to save it either: the last checkpoint stands"
        if run.program.remains is not None and self.limits is not None:
            # A process that begins with this layout has not held another one before.
            self.limits.remember(held_values(plan), shortage.text, proven=False)
        pinned = [one.control for one in rungs() if one.control in plan.pinned]
        if not self.on:
            said = "--no-memory-recovery: nothing was tried"
        elif self._tried:
            said = f"tried: {'; '.join(one.text for one in self._tried)}"
        elif pinned:
            said = f"{', '.join(pinned)} may not change"
        else:
            said = "nothing is left to try"
        return LuminaError(
            shortage.code,
            f"no room in step {step + 1}: {shortage.text}; {said}",
            f"with {plan.micro_batch_size} rows in a forward and gradient "
            f"checkpointing {plan.gradient_checkpointing} the step does not fit: use a "
            "shorter --seq-length, an optimizer with smaller states or a smaller "
            f"preset; {saved}",
        )

    def _end_broken(self, run: Run, shortage: Shortage) -> NoReturn:
        """The weights cannot be trusted, or other ranks wait in an exchange.

        The run that goes on from the last checkpoint begins one rung further down.
        """
        where = (
            "while weights were being changed"
            if self.guard.updating
            else "inside an exchange with other processes"
        )
        rank = run.program.ranks.rank
        text = (
            f"rank {rank} ran out of memory in step {run.progress.step + 1}, {where}: "
            f"{shortage.text}"
        )
        wanted = next_attempt(run.plan, True, self._refused) if self.on else None
        if wanted is not None and self.limits is not None:
            held = held_values(run.plan) | {wanted.control: wanted.value}
            self.limits.remember(held, shortage.text, proven=False)
            text += f"; it goes on when {wanted.text}"
        self.guard.leave_word(text)
        raise LuminaError(shortage.code, text, GO_ON)


GO_ON = (
    "go on from the last checkpoint with --auto-resume, which takes up what was found "
    "out about memory; --supervise does so by itself"
)


def next_attempt(
    plan: Plan, cleared: bool, refused: Collection[str] = ()
) -> Attempt | None:
    """The next rung for a run of this Plan; None at the end of the ladder.

    Args:
        plan: what the step that failed was laid out by.
        cleared: the cache was emptied a short while ago.
        refused: rungs that could not be carried out.
    """
    for rung in rungs():
        if rung.name in refused:
            continue
        found = rung.next(plan, cleared)
        if found is None or found.control in plan.pinned:
            continue
        if found.control and not _possible(plan, found):
            continue
        return found
    return None


def _possible(plan: Plan, attempt: Attempt) -> bool:
    """Whether the control can be set in a run of this Plan."""
    control = control_named(attempt.control)
    try:
        control.check_plan(plan)
        control.edit(plan, attempt.value)
    except LuminaError:
        return False
    return True
