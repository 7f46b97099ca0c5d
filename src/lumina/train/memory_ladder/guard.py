"""Where a step is, so that it is known what can be done when its memory runs out.

Several ranks exchange data inside a step, and a rank that fails must not leave the
others in an exchange that it will not join. They therefore agree, at one or more places
of each step, that none of them has failed so far. It takes a small message between the
hosts, without waiting for a device.

- Where every rank holds the model (DDP), gradients are exchanged in the last backward
  only: ranks agree right before it. DDP's second step also exchanges the order of its
  buckets as the last forward begins, so in the first steps they agree before that too.
- Where each rank holds a part of the weights (FSDP2) or of the rows (context
  parallelism), every forward and every backward exchanges something: ranks agree
  between the two, which is after the loss, where memory is shortest.

A rank that fails elsewhere is inside an exchange. The ranks can then only go on where
all of them have failed at the same place (`all_failed_here`).
"""

from __future__ import annotations

import contextlib
import json
import time
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from lumina.assemble.program import Program

SETTLES = 3
"""Steps of a new DDP wrapper before which it may exchange more than gradients."""

PATIENCE = timedelta(seconds=20)
"""How long a rank that failed inside an exchange waits for the others to fail there."""

_PREFIX = "lumina/out_of_memory"


class OthersLackMemoryError(Exception):
    """Another rank has no memory; every rank left the step at the same place."""


class StepGuard:
    """Follows one step after the other.

    Attributes:
        updating: weights are being changed, or what a step did could not be undone:
            the step cannot be repeated, nor its weights be trusted.
    """

    def __init__(self) -> None:
        self.updating = False
        self._program: Program | None = None
        self._hooks: list[Any] = []
        self._steps = 0
        self._places = self._passed = 0
        self._exchanging = False
        self._failures = 0

    def begin(self, program: Program, forwards: int) -> None:
        """A step begins.

        Args:
            program: that takes it.
            forwards: of this rank.
        """
        self.updating = self._exchanging = False
        if program is not self._program:
            self._follow(program)
        self._passed = 0
        self._places = self._places_of(program, forwards)
        self._steps += 1

    def _places_of(self, program: Program, forwards: int) -> int:
        """How often the ranks agree in a step."""
        if program.mesh.everyone.size == 1:
            return 0
        if program.meets_in_forward:
            return forwards
        return 2 if self._steps < SETTLES else 1

    def _follow(self, program: Program) -> None:
        """Notice when a backbone whose passes exchange something begins and ends."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._program, self._steps = [], program, 0
        if program.meets_in_forward and program.mesh.everyone.size > 1:
            backbone = program.network.backbone
            self._hooks = [
                backbone.register_forward_pre_hook(lambda *_: self._exchanges(True)),
                backbone.register_forward_hook(lambda *_: self._exchanges(False)),
            ]

    def _exchanges(self, now: bool) -> None:
        self._exchanging = now

    def before_forward(self, last: bool) -> None:
        """A forward begins.

        Args:
            last: it is the last of the step.

        Raises:
            OthersLackMemoryError: another rank has no memory.
        """
        program = self._program
        if program is None or program.mesh.everyone.size == 1:
            return
        if program.meets_in_forward:
            self._exchanging = True  # the root gathers its weights
        elif last and self._places == 2:
            self._agree()

    def before_backward(self, last: bool) -> None:
        """The loss of a forward is there; as `before_forward`."""
        program = self._program
        if program is None or program.mesh.everyone.size == 1:
            return
        if last or program.meets_in_forward:
            self._agree()
            self._exchanging = True

    def before_update(self) -> None:
        """From here on the step cannot be repeated."""
        self.updating = True

    def after_update(self) -> None:
        """The weights and all that is kept beside them are those of a whole step."""
        self.updating = False

    def _agree(self) -> None:
        assert self._program is not None
        self._passed += 1
        everyone, began = self._program.mesh.everyone, time.perf_counter()
        short = everyone.any_(False)
        everyone.waits.append(time.perf_counter() - began)
        if short:
            raise OthersLackMemoryError

    def tell_others(self) -> bool:
        """This rank has failed: let the others know at the next place where they agree.

        Returns:
            False where this rank is inside an exchange, so that they would wait for it.
        """
        program = self._program
        assert program is not None
        if program.mesh.everyone.size == 1:
            return True
        if self._exchanging or self._passed >= self._places:
            return False
        self._passed += 1
        program.mesh.everyone.any_(True)
        return True

    def all_failed_here(self) -> bool:
        """Whether every rank has failed at this place of the exchanges.

        Called by ranks that failed inside an exchange. One that did not fail waits in
        the exchange and does not come here; after `PATIENCE` that is certain enough.
        """
        assert self._program is not None
        ranks = self._program.ranks
        self._failures += 1
        name = f"{_PREFIX}/{self._failures}"
        with contextlib.suppress(RuntimeError):  # the store has gone, or time is up
            store = _store()
            store.set(f"{name}/{ranks.rank}", _exchanged())
            keys = [f"{name}/{rank}" for rank in range(ranks.world_size)]
            store.wait(keys, PATIENCE)
            return len({store.get(key) for key in keys}) == 1
        return False

    def leave_word(self, text: str) -> None:
        """Tell the ranks that wait in an exchange why this one does not come."""
        if self._program is None or self._program.ranks.world_size == 1:
            return
        with contextlib.suppress(RuntimeError):  # the store has gone
            _store().set(f"{_PREFIX}/ended", text)

    def word_of_others(self) -> str:
        """Why another rank has ended, where it was for want of memory; else empty."""
        if self._program is None or self._program.ranks.world_size == 1:
            return ""
        with contextlib.suppress(RuntimeError):  # the store has gone
            store = _store()
            if store.check([f"{_PREFIX}/ended"]):
                return str(store.get(f"{_PREFIX}/ended").decode())
        return ""


class _Nothing(StepGuard):
    """For steps that stand alone: they fail as they fail."""

    def before_forward(self, last: bool) -> None:
        """Nothing."""

    def before_backward(self, last: bool) -> None:
        """Nothing."""

    def before_update(self) -> None:
        """Nothing."""


UNGUARDED = _Nothing()
"""Guards nothing: for steps without a loop around them."""


def _store() -> Any:
    """Where the ranks met."""
    return dist.distributed_c10d._get_default_store()


def _exchanged() -> str:
    """How many exchanges this rank has begun in each group, as text."""
    groups: Any = dist.distributed_c10d._world.pg_map
    return json.dumps([group._get_sequence_number_for_group() for group in groups])
