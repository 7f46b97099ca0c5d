"""The largest attention logit of a row, beside the step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from lumina.ops.attention.dispatch import Pattern, observed
from lumina.ops.largest_scores.note import note_largest
from lumina.train.watch import Look, register_look

if TYPE_CHECKING:
    from lumina.assemble.program import Program
    from lumina.data.stream import StepBatches


@register_look
class AttentionLogits(Look):
    """The largest logit that enters a softmax of attention, from a pass of its own.

    Attention kernels do not give it. The pass sees the first row of each rank's step,
    without dropout and gradients, in uncompiled code, and leaves no trace in the model;
    the largest of all ranks counts. Keys that stay visible beyond a window of
    attention are not looked at. With `--qk-clip` every step has it for all rows.
    """

    name = "attention_logits"
    apart: ClassVar[bool] = True

    def __init__(self, program: Program, batches: StepBatches) -> None:
        super().__init__(program, batches)
        device = program.device
        self._found = torch.full((), -math.inf, device=device)
        if batches.micro_batches:
            self._look(program, batches)
        self._found = program.mesh.tokens.stack(self._found[None]).amax()[None]

    @torch.no_grad()
    def _look(self, program: Program, batches: StepBatches) -> None:
        batch = batches.micro_batches[0].first(1).to(program.device)
        window = program.plan.spec.window_size
        pattern = Pattern("varlen", None, batch.cu_seqlens, batch.max_seqlen, window)

        def note(q_bshd: Tensor, k_bskd: Tensor) -> None:
            largest = q_bshd.new_full((q_bshd.shape[2],), -math.inf, dtype=torch.float)
            note_largest(q_bshd, k_bskd, pattern, largest)
            self._found = torch.maximum(self._found, largest.amax())

        model = program.model
        training = model.training
        model.eval()
        try:
            with torch.compiler.set_stance("force_eager"), observed(note):
                model(batch)
        finally:
            model.train(training)
            program.way.after_evaluation()

    def values(self) -> Tensor | None:
        """[1]: the logit."""
        return self._found

    def row(self, values: Sequence[float]) -> dict[str, Any]:
        """The key that `--qk-clip` fills in every step."""
        (largest,) = values
        there = math.isfinite(largest)
        return {"largest_attention_logit": largest if there else None}
