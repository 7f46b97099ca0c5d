"""A case of the guard's benchmark: a small model of Lumina with a lever."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from lumina.assemble.assemble import Progress, assemble, capture
from lumina.assemble.source import StateSource
from lumina.batch import Batch
from lumina.guard.programs import ProgramSubject
from lumina.model.spec import ModelSpec, MoeSpec
from lumina.plan.plan import Plan

SLOWER = 1.3
"""How much longer a step of the baseline takes."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A lever.

    Attributes:
        name: unique.
        kind: "mutant" or "right".
        dtype: of the run.
        moe: whether the model routes.
        seed: of the weights and the batches.
        faster: whether it claims to be faster.
        slower: how much longer a step of the baseline takes.
    """

    name: str
    kind: str
    dtype: str = "bfloat16"
    moe: bool = False
    seed: int = 5
    faster: bool = True
    slower: float = SLOWER


def plan_of(case: Case, device: str) -> Plan:
    routed = MoeSpec(num_experts=4, top_k=2, intermediate_size=32, layers=(0, 1))
    spec = ModelSpec(
        vocab_size=250,
        padded_vocab_size=256,
        hidden_size=64,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        intermediate_size=96,
        seq_length=64,
        init_std=0.1,
        moe=routed if case.moe else None,
    )
    return Plan(
        spec=spec,
        device=device,
        compute_dtype=case.dtype,
        attention="reference",
        micro_batch_size=8,
        global_batch_size=8,
        max_grad_norm=0.0,
        seed=case.seed,
        steps=100_000,
    )


class Waiting(ProgramSubject):
    """A subject that makes every step take several times as long."""

    factor = 1.0

    def learn(self, batch: Batch) -> Tensor:
        self.synchronise()
        begin = clock(self)
        loss = super().learn(batch)
        self.synchronise()
        end = begin + (clock(self) - begin) * self.factor
        while clock(self) < end:
            pass
        return loss


def clock(subject: ProgramSubject) -> float:
    if subject.program.device.type == "cpu":
        return time.process_time()
    return time.perf_counter()


class Mutated(Waiting):
    """A subject with something done to it; by a hook below."""

    batch_of: Callable[[Batch, int], Batch] = staticmethod(lambda batch, step: batch)
    loss_factor = 1.0
    count_of: Callable[[Batch], int] | None = None
    before: Callable[[Mutated], None] | None = None
    reload: Callable[[Any], Any] | None = None

    def _backward(self, batch: Batch) -> Tensor:
        if self.before is not None:
            self.before(self)
        loss = super()._backward(self.batch_of(batch, self._step))
        return loss * self.loss_factor

    def saved_and_loaded(self, folder: Path) -> ProgramSubject:
        if self.reload is None:
            again = super().saved_and_loaded(folder)
        else:
            state = capture(self.program, Progress(step=self._step), everything=True)
            state = self.reload(state)
            program = assemble(self.program.plan, StateSource(state), meta=state)
            again = ProgramSubject(self.program.plan, program=program)
        prepared = Mutated(self.program.plan, program=again.program)
        self.prepare(prepared)
        return prepared

    prepare: Callable[[ProgramSubject], None] = staticmethod(lambda subject: None)


Mutated.given = None  # type: ignore[attr-defined]
