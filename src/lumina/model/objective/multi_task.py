"""Several tasks over one vocabulary: a linear head, and a cross entropy, for each.

Rows of a batch stand in the order of their tasks, and the host knows how many each has,
so a head is multiplied with its own rows only and nothing is read back to find them.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lumina.batch import IGNORE, Batch
from lumina.errors import LuminaError
from lumina.model.interface import LossSums, Output
from lumina.model.layers import Linear
from lumina.model.spec import ModelSpec
from lumina.ops.cross_entropy.chunked import cross_entropy

LOSSES, TOKENS = "task.losses", "task.tokens"
"""Terms of the loss sums: cross entropy and counted tokens of each task, [tasks]."""


class MultiTaskObjective(nn.Module):
    """Next-token prediction with a head for each task; embeddings are never tied.

    Every head takes part in every forward, with no row if need be: ranks that hold
    rows of different tasks then have gradients for the same parameters.

    Args:
        spec: the resolved shape, with tasks.
        loss_chunk_bytes: most bytes of float32 logits held at a time.
    """

    def __init__(self, spec: ModelSpec, loss_chunk_bytes: int) -> None:
        super().__init__()
        assert spec.tasks is not None
        self.names = spec.tasks.names
        self.vocab_size = spec.vocab_size
        self.loss_chunk_bytes = loss_chunk_bytes
        self.heads = nn.ModuleList(
            Linear(spec.hidden_size, spec.padded_vocab_size) for _ in self.names
        )

    def _weights(self) -> list[Tensor]:
        """The heads' matrices, each [padded vocabulary, D]."""
        return [head.matrix() for head in self.heads]  # type: ignore[operator]

    def forward(self, output: Output, batch: Batch, tied: None = None) -> LossSums:
        """Cross entropy sums of a batch, over all tasks and for each.

        Args:
            output: of the backbone; its hidden states are [B, S, D].
            batch: its labels, loss weights and `task_rows`.
            tied: accepted as other objectives do; there is no such weight.
        """
        hidden, rows = output.hidden, batch.task_rows
        if rows is None or len(rows) != len(self.heads) or sum(rows) != len(hidden):
            raise ValueError(f"task_rows {rows} of {len(hidden)} rows")
        length = hidden.shape[1]
        tokens = [count * length for count in rows]
        labels_t = batch.labels.reshape(-1)
        counted_t = (labels_t != IGNORE).to(torch.float32)
        if batch.loss_weights is not None:
            counted_t = counted_t * batch.loss_weights.reshape(-1)
        sums = [
            cross_entropy(
                hidden_td,
                weight_vd,
                labels,
                weights,
                self.vocab_size,
                self.loss_chunk_bytes,
            )
            for weight_vd, hidden_td, labels, weights in zip(
                self._weights(),
                hidden.flatten(0, 1).split(tokens),
                labels_t.split(tokens),
                counted_t.split(tokens),
                strict=True,
            )
        ]
        losses = torch.stack([one.loss for one in sums])
        counts = torch.stack([part.sum() for part in counted_t.split(tokens)])
        return LossSums(
            losses.sum(),
            counts.sum(),
            {
                "correct": torch.stack([one.correct for one in sums]).sum(),
                "each": torch.cat([one.loss_t for one in sums]).view(
                    batch.labels.shape
                ),
                "right": torch.cat([one.correct_t for one in sums]).view(
                    batch.labels.shape
                ),
                "log_z": torch.cat([one.log_z_t for one in sums]).view(
                    batch.labels.shape
                ),
                LOSSES: losses,
                TOKENS: counts,
            },
        )

    def logits(
        self, hidden: Tensor, tied: None = None, task_id: int | str | None = None
    ) -> Tensor:
        """Scores of the next token by one task's head.

        Args:
            hidden: [B, S, D].
            tied: accepted as other objectives do; there is no such weight.
            task_id: the task's name, or its number.

        Returns:
            [B, S, vocab_size] float32.

        Raises:
            LuminaError: E005 where no task, or none of this model's, is named.
        """
        weight = self._weights()[self.place(task_id)]
        return F.linear(hidden, weight.to(hidden.dtype))[..., : self.vocab_size].float()

    def of_task(self, batch: Batch, task_id: int | str | None) -> Batch:
        """The batch with all of its rows under one task; errors as `logits`."""
        rows = [0] * len(self.names)
        rows[self.place(task_id)] = len(batch.input_ids)
        return replace(batch, task_rows=tuple(rows))

    def place(self, task_id: int | str | None) -> int:
        """Which head a task's name or number means; errors as `logits`."""
        place = self.names.index(task_id) if task_id in self.names else task_id
        if not isinstance(place, int) or not 0 <= place < len(self.names):
            absent = f"there is no task {task_id!r}"
            raise LuminaError(
                "E005",
                "no task is named" if task_id is None else absent,
                f"name one of the tasks {', '.join(self.names)}",
            )
        return place


def task_statistics(losses: LossSums) -> Tensor:
    """[tasks, 3]: the cross entropy and the counted tokens of each task, and zero."""
    columns = [losses.terms[LOSSES], losses.terms[TOKENS]]
    columns.append(torch.zeros_like(columns[0]))
    return torch.stack(columns, dim=1).detach()
