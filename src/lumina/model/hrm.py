"""Hierarchical reasoning on puzzles with adaptive computation time, version 1.

Wang et al., 2025, arXiv:2506.21734; its one-network variant is Jolicoeur-Martineau,
2025, arXiv:2510.04871. Two states are refined in turns, z_L by the low-level module
and, more rarely, z_H by the high-level one. A *segment* is one round of such updates
and one training step; only its last updates carry gradient. The states then go on, as
the *carry*, to the next step, until a halting head (or the limit) ends a row, which
takes a new puzzle.

Shapes: b rows, p = 1 + s positions (the first holds the puzzle's own vector and is
read by the halting head), d width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from lumina.batch import IGNORE, Batch
from lumina.model.context import BlockContext
from lumina.model.interface import Output
from lumina.model.layers import Embedding
from lumina.model.puzzle_vectors import PuzzleVectors
from lumina.model.reasoning import HaltingHead, ReasoningBlock, updates
from lumina.model.spec import HrmSpec, ModelSpec
from lumina.ops.attention.dispatch import Pattern
from lumina.ops.rotary.reference import frequencies, tables

PREFIX = 1
"""Positions in front of the row: the vector of its puzzle identifier."""


@dataclass
class Carry:
    """What goes from one segment to the next, row by row.

    Attributes:
        z_h: [B, 1 + S, D] high-level state, without gradient; `z_l` alike.
        steps: [B] int32, segments spent on the row's puzzle.
        halted: [B] bool, the row takes a new puzzle in the next step.
        input_ids: [B, S] int64, the puzzle that is being worked on; `labels` alike.
        puzzle_ids: [B] int64.
    """

    z_h: Tensor
    z_l: Tensor
    steps: Tensor
    halted: Tensor
    input_ids: Tensor
    labels: Tensor
    puzzle_ids: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name, for a State."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def begin_anew(self, rows: Tensor) -> None:
        """Rows [B] or [] bool take a new puzzle in the next step, and its state."""
        self.halted |= rows


@dataclass
class PuzzleOutput(Output):
    """An `Output` with what the halting head said.

    Attributes:
        labels: [B, S] int64, of the puzzles that `hidden` is about.
        q_halt: [B] float32 logit of halting now being right; `q_continue` of going on.
        target: [B] float32, what `q_continue` should be, or None where not learned.
    """

    labels: Tensor = None  # type: ignore[assignment]
    q_halt: Tensor = None  # type: ignore[assignment]
    q_continue: Tensor = None  # type: ignore[assignment]
    target: Tensor | None = None


class HierarchicalReasoner(nn.Module):
    """The backbone: embeddings, the two modules, the halting head.

    Args:
        spec: the resolved shape; its `hrm` says how it recurs.
        attention: "sdpa" or "reference".

    Attributes:
        blocks: the low-level module's, then the high-level module's.
        compute_dtype: the type of activations and of the carry.
    """

    recurrent = True

    def __init__(self, spec: ModelSpec, attention: str = "sdpa") -> None:
        super().__init__()
        assert spec.hrm is not None
        self.attention = attention
        self.spec = spec
        self.hrm: HrmSpec = spec.hrm
        self.compute_dtype = torch.float32
        width = spec.hidden_size
        self.embedding = Embedding(spec.padded_vocab_size, width)
        self.puzzle_embedding = PuzzleVectors(self.hrm.num_puzzles, width)
        layers = self.hrm.l_layers + self.hrm.h_layers
        self.blocks = nn.ModuleList(ReasoningBlock(spec, i) for i in range(layers))
        self.halting = HaltingHead(width)
        # Where a row begins. Drawn once, never trained.
        self.h_init = nn.Buffer(torch.empty(width))
        self.l_init = nn.Buffer(torch.empty(width))

    def forward(
        self, batch: Batch, carry: Carry | None = None, cache: Any = None
    ) -> PuzzleOutput:
        """One segment in training; in evaluation all of them, from the beginning.

        Args:
            batch: puzzles; in training only the halted rows take theirs. `task_ids`
                are puzzle identifiers (all 0 when absent), `uniforms` the draws that
                exploration uses.
            carry: from the step before; None begins every row.
            cache: not taken; there is no generation token by token.
        """
        assert cache is None, "a reasoner of puzzles has no cache"
        if self.training:
            return self._train_segment(batch, carry or self.empty_carry(batch))
        return self._all_segments(batch)

    def empty_carry(self, batch: Batch) -> Carry:
        """A carry whose rows have all halted, so that each takes its puzzle."""
        rows, length = batch.input_ids.shape
        device = batch.input_ids.device
        shape = (rows, PREFIX + length, self.spec.hidden_size)
        return Carry(
            z_h=torch.zeros(shape, dtype=self.compute_dtype, device=device),
            z_l=torch.zeros(shape, dtype=self.compute_dtype, device=device),
            steps=torch.zeros(rows, dtype=torch.int32, device=device),
            halted=torch.ones(rows, dtype=torch.bool, device=device),
            input_ids=torch.zeros_like(batch.input_ids),
            labels=torch.full_like(batch.labels, IGNORE),
            puzzle_ids=torch.zeros(rows, dtype=torch.int64, device=device),
        )

    def carry_from(self, tensors: dict[str, Tensor]) -> Carry:
        """A carry of `Carry.tensors`."""
        states = {n: tensors[n].to(self.compute_dtype) for n in ("z_h", "z_l")}
        return Carry(**(tensors | states))

    def _refill(self, carry: Carry, batch: Batch) -> Carry:
        """Halted rows take a new puzzle and begin again."""
        new = carry.halted
        row, state = new[:, None], new[:, None, None]
        ids = batch.task_ids
        fresh = torch.zeros_like(carry.puzzle_ids) if ids is None else ids
        return Carry(
            z_h=torch.where(state, self.h_init.to(carry.z_h.dtype), carry.z_h),
            z_l=torch.where(state, self.l_init.to(carry.z_l.dtype), carry.z_l),
            steps=torch.where(new, 0, carry.steps),
            halted=torch.zeros_like(new),
            input_ids=torch.where(row, batch.input_ids, carry.input_ids),
            labels=torch.where(row, batch.labels, carry.labels),
            puzzle_ids=torch.where(new, fresh, carry.puzzle_ids),
        )

    def _train_segment(self, batch: Batch, carry: Carry) -> PuzzleOutput:
        now = self._refill(carry, batch)
        vectors = self.puzzle_embedding(now.puzzle_ids)
        embedded, context = self._embed(now, vectors), self._context(now)
        z_h, z_l = self.segment(now.z_h, now.z_l, embedded, context)
        q_halt, q_continue = self.halting(z_h[:, 0])
        steps = now.steps + 1
        last = steps >= self.hrm.halt_max_steps
        states = z_h.detach(), z_l.detach()
        target = None
        with torch.no_grad():
            halted = self._halted(q_halt, q_continue, steps, batch.uniforms)
            if self.hrm.variant == "hrm" and self.hrm.halt_max_steps > 1:
                target = self._target(states, embedded, context, last)
        return PuzzleOutput(
            hidden=z_h[:, PREFIX:],
            carry=Carry(
                z_h=states[0],
                z_l=states[1],
                steps=steps,
                halted=halted,
                input_ids=now.input_ids,
                labels=now.labels,
                puzzle_ids=now.puzzle_ids,
            ),
            labels=now.labels,
            q_halt=q_halt,
            q_continue=q_continue,
            target=target,
        )

    def _all_segments(self, batch: Batch) -> PuzzleOutput:
        """The full number of segments, whatever the halting head says."""
        now = self._refill(self.empty_carry(batch), batch)
        vectors = self.puzzle_embedding(now.puzzle_ids)
        embedded, context = self._embed(now, vectors), self._context(now)
        z_h, z_l = now.z_h, now.z_l
        for _ in range(self.hrm.halt_max_steps):
            z_h, z_l = self.segment(z_h.detach(), z_l.detach(), embedded, context)
        q_halt, q_continue = self.halting(z_h[:, 0])
        return PuzzleOutput(
            hidden=z_h[:, PREFIX:],
            labels=now.labels,
            q_halt=q_halt,
            q_continue=q_continue,
        )

    def segment(
        self, z_h: Tensor, z_l: Tensor, embedded: Tensor, context: BlockContext
    ) -> tuple[Tensor, Tensor]:
        """All updates of one segment; gradient flows through the last ones only.

        Args:
            z_h: [B, P, D], as `z_l`.
            embedded: [B, P, D], added to what the low-level module is given.

        Returns:
            The new z_h and z_l.
        """
        learning = torch.is_grad_enabled()
        for update in updates(self.hrm):
            with torch.set_grad_enabled(learning and update.learns):
                if update.low:
                    z_l = self._low(z_l, z_h + embedded, context)
                else:
                    z_h = self._high(z_h, z_l, context)
        return z_h, z_l

    def _low(self, z: Tensor, injected: Tensor, context: BlockContext) -> Tensor:
        z = z + injected
        for block in self.blocks[: self.hrm.l_layers]:
            z = block(z, context)
        return z

    def _high(self, z: Tensor, injected: Tensor, context: BlockContext) -> Tensor:
        if self.hrm.variant == "trm":
            return self._low(z, injected, context)
        z = z + injected
        for block in self.blocks[self.hrm.l_layers :]:
            z = block(z, context)
        return z

    def _halted(
        self,
        q_halt: Tensor,
        q_continue: Tensor,
        steps: Tensor,
        uniforms: Tensor | None,
    ) -> Tensor:
        """[B] bool: the limit is reached, or the head says so and may."""
        hrm = self.hrm
        last = steps >= hrm.halt_max_steps
        if hrm.halt_max_steps == 1:
            return last
        bar = q_continue if hrm.variant == "hrm" else torch.zeros_like(q_halt)
        halted = last | (q_halt > bar)
        if hrm.halt_exploration > 0:
            assert uniforms is not None, "exploration needs the batch's draws"
            chosen, drawn = uniforms[:, 0], uniforms[:, 1]
            fewest = 2 + (drawn * (hrm.halt_max_steps - 1)).floor()
            explores = chosen < hrm.halt_exploration
            halted = halted & (steps >= torch.where(explores, fewest, 0.0))
        return halted

    def _target(
        self,
        states: tuple[Tensor, Tensor],
        embedded: Tensor,
        context: BlockContext,
        last: Tensor,
    ) -> Tensor:
        """[B] the worth of going on: what the next segment will be able to reach."""
        z_h, _ = self.segment(*states, embedded, context)
        q_halt, q_continue = self.halting(z_h[:, 0])
        return torch.sigmoid(
            torch.where(last, q_halt, torch.maximum(q_halt, q_continue))
        )

    def _embed(self, carry: Carry, vectors: Tensor) -> Tensor:
        """[B, 1 + S, D]: the puzzle's vector, then the tokens'; scaled to unit size."""
        tokens = self.embedding(carry.input_ids)
        x_bpd = torch.cat((vectors[:, None].to(tokens.dtype), tokens), dim=1)
        return x_bpd.to(self.compute_dtype) * math.sqrt(self.spec.hidden_size)

    def _context(self, carry: Carry) -> BlockContext:
        """Rotary tables over the row and its prefix; every position sees every other.

        Padding is attended to as well, as in the reference.
        """
        length = PREFIX + carry.input_ids.shape[1]
        device = carry.input_ids.device
        inverse, factor = frequencies(
            self.spec.head_dim, self.spec.rope_theta, device=device
        )
        positions = torch.arange(length, device=device)[None]
        cos, sin = tables(positions, inverse, factor)
        valid = torch.ones(1, length, dtype=torch.bool, device=device)
        return BlockContext(cos, sin, Pattern(self.attention, causal=False), valid)
