"""Programs of a Plan as subjects: the reference, the baseline, and one with a lever."""

from __future__ import annotations

import contextlib
import gc
import itertools
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from lumina.assemble.assemble import Progress, assemble, capture
from lumina.assemble.program import Program
from lumina.batch import IGNORE, Batch
from lumina.errors import LuminaError
from lumina.features import FEATURES
from lumina.guard.subject import Pass
from lumina.model.kinds.table import why_not
from lumina.ops.float8.scaled import widened
from lumina.ops.seeding import seed_generators
from lumina.plan.environment import Environment
from lumina.plan.plan import Plan
from lumina.state.checkpoint import CheckpointStore
from lumina.state.reader import open_checkpoint

RATE = 1e-3
"""Learning rate of the paired steps."""

MOST_DOCUMENTS = 4
"""Documents of a row, at most, where rows have several."""


def without(plan: Plan, levers: tuple[str, ...], machine: Environment) -> Plan:
    """The Plan without some levers.

    Raises:
        LuminaError: E002 for a lever that a Plan cannot do without.
    """
    for name in levers:
        feature = FEATURES[name]
        if feature.is_active(plan):
            if not feature.has_fallback:
                raise LuminaError(
                    "E002",
                    f"{name} has no fallback, so there is nothing to compare it with",
                    f"leave it out by {feature.way_out}",
                )
            plan = feature.fallen_back(plan, machine)
    return plan


def reference_plan(plan: Plan) -> Plan:
    """The same model in float32 with plain operations.

    Features without an option of their own change the network, and are left out too.
    """
    own = why_not(plan.spec, "plain_attention") is not None
    attention = plan.attention if own else "reference"
    return plan.replace(
        compute_dtype="float32",
        weights_dtype="float32",
        tf32=False,
        fp8="",
        compile=False,
        attention=attention,
        features=(),
        gradient_checkpointing="none",
        block_checkpointing=(),
        activations_in="device",
        activation_bits=0,
        feedforward_tile=0,
        attention_head_groups=1,
    )


class ProgramSubject:
    """A Program that is given batches, without a run around it.

    Args:
        plan: to assemble; of one process.
        emulated: products of 8 bits are computed in float32 from the same quantised
            values.
    """

    def __init__(
        self, plan: Plan, *, emulated: bool = False, program: Program | None = None
    ) -> None:
        if why_not(plan.spec, "pretests") is not None or plan.world_size > 1:
            raise LuminaError(
                "E002",
                "pretests compare steps of one process with rows that are independent "
                "of each other, which this run does not have",
                "use --safe-optimizations watch, which watches the run alone",
            )
        self._emulated = emulated
        self.program = program if program is not None else assemble(plan)
        program = self.program
        one = torch.ones((), device=program.device)
        self._divisor, self._skip = one, torch.zeros_like(one)
        self._rate = one * RATE
        self._step = 0

    def passed(self, batch: Batch) -> Pass:
        """Forward and backward; the gradients are copies in float32."""
        loss = self._backward(batch)
        found = {
            slot.name: gradient.detach().float().clone()
            for slot in self.program.optimizer.slots
            if (gradient := slot.gradient()) is not None
        }
        self._let_go()
        return Pass(float(loss), found)

    def learn(self, batch: Batch) -> Tensor:
        """Forward, backward and a step of the run's optimizer at a fixed rate."""
        loss = self._backward(batch)
        program = self.program
        program.before_changes()
        program.optimizer.step(
            lr=self._rate,
            weight_decay=program.plan.weight_decay,
            divisor=self._divisor,
            skip=self._skip,
        )
        self._let_go()
        program.optimizer.release()
        self._step += 1
        return loss

    def held_bytes(self) -> int:
        """What the device's allocator gave out; on the CPU, that of all tensors."""
        if self.program.device.type == "cuda":
            return torch.cuda.memory_allocated(self.program.device)
        return tensor_bytes()

    def synchronise(self) -> None:
        """Wait for the device."""
        if self.program.device.type == "cuda":
            torch.cuda.synchronize(self.program.device)

    def saved_and_loaded(self, folder: Path) -> ProgramSubject:
        """Through a checkpoint on disk, as a run that is resumed."""
        program = self.program
        state = capture(program, Progress(step=self._step))
        store = CheckpointStore(folder)
        try:
            place = store.save(state, background=False, already_snapshot=True)
        finally:
            store.close()
        with open_checkpoint(place) as reader:
            again = assemble(program.plan, reader, meta=reader.meta)
        return ProgramSubject(program.plan, emulated=self._emulated, program=again)

    def close(self) -> None:
        """Release the Program."""
        self.program.close()

    def _backward(self, batch: Batch) -> Tensor:
        """[] the mean loss; gradients are left in the Program."""
        program = self.program
        for kind in program.kinds:
            kind.before(program, self._step)
        seed_generators(program.plan.seed + self._step)
        here = program.ready(batch)
        with widened() if self._emulated else contextlib.nullcontext():
            losses, aux = program.model(here)
            count = int((batch.labels != IGNORE).sum())
            trained = losses.trained_sum
            trained = losses.loss_sum if trained is None else trained
            total = trained / count
            for term in program.terms:
                share = term.per_token(batch.labels.numel(), count)
                total = total + term.weight * aux[term.key] * share
            total.backward()
        mean: Tensor = losses.loss_sum.detach() / count
        return mean

    def _let_go(self) -> None:
        self.program.optimizer.zero_grad()


def tensor_bytes() -> int:
    """Bytes of all tensors that Python holds, each memory once."""
    seen: dict[int, int] = {}
    for one in gc.get_objects():
        # Not isinstance: some objects do things when they are asked for their class.
        if issubclass(type(one), Tensor) and one.device.type == "cpu":
            # A fake or functional tensor has no memory.
            with contextlib.suppress(RuntimeError, NotImplementedError):
                memory = one.untyped_storage()
                seen[memory.data_ptr()] = memory.nbytes()
    return sum(seen.values())


def batches_of(plan: Plan, count: int) -> dict[str, list[Batch]]:
    """Random batches of every shape of a run: rows of several documents, and of one.

    Both are of the run's micro-batch and row length. Which kernel computes attention
    may depend on whether a row is a single document.

    Args:
        plan: of the run.
        count: batches of each shape.
    """
    rows, length = plan.micro_batch_size, plan.spec.seq_length
    generator = torch.Generator().manual_seed(plan.seed)
    found = {}
    for words, most in (("packed documents", MOST_DOCUMENTS), ("one document", 1)):
        name = f"{rows} x {length}, {words}"
        found[name] = [
            _batch(rows, length, most, plan.spec.vocab_size, generator)
            for _ in range(count)
        ]
    return found


def _batch(
    rows: int, length: int, most: int, vocabulary: int, generator: torch.Generator
) -> Batch:
    """Documents of random lengths without padding; the last token predicts nothing."""
    ids = torch.randint(0, vocabulary, (rows, length), generator=generator)
    labels = torch.full_like(ids, IGNORE)
    labels[:, :-1] = ids[:, 1:]
    positions, documents = torch.zeros_like(ids), torch.zeros_like(ids)
    edges = [0]
    for row in range(rows):
        for number, (begin, end) in enumerate(_spans(length, most, generator)):
            positions[row, begin:end] = torch.arange(end - begin)
            documents[row, begin:end] = number
            labels[row, end - 1] = IGNORE
            edges.append(row * length + end)
    filled = edges + [rows * length] * (rows * most + 1 - len(edges))
    return Batch(
        input_ids=ids,
        labels=labels,
        position_ids=positions,
        document_ids=documents,
        cu_seqlens=torch.tensor(filled, dtype=torch.int32),
        max_seqlen=length,
        one_document_rows=most == 1,
    )


def _spans(
    length: int, most: int, generator: torch.Generator
) -> Iterator[tuple[int, int]]:
    """Where documents of a row begin and end; each has two tokens and more."""
    count = min(most, length // 2)
    if count > 1:
        places = torch.randperm(length // 2 - 1, generator=generator)[: count - 1]
        cuts = [0, *sorted(2 * (int(x) + 1) for x in places), length]
    else:
        cuts = [0, length]
    yield from itertools.pairwise(cuts)
