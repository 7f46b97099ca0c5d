"""What a frozen model reads of a batch, and how a batch is cut to its first rows."""

from __future__ import annotations

from dataclasses import replace

import torch

from lumina.assemble.frozen_model import rows_of_base
from lumina.batch import Batch


def test_the_rows_of_the_first_source_are_compared() -> None:
    made = Batch.from_rows(torch.arange(24).view(4, 6))
    for sources, rows in (([0, 0, 1, 2], 2), ([1, 1, 2, 2], 0), ([0] * 4, 4)):
        batch = replace(made, source_ids=torch.tensor(sources))
        assert rows_of_base(batch) == rows


def test_the_first_rows_of_a_batch_are_a_batch() -> None:
    batch = replace(
        Batch.from_rows(torch.arange(24).view(4, 6)),
        loss_weights=torch.rand(4, 6),
        source_ids=torch.tensor([0, 0, 1, 1]),
    )
    first = batch.first(2)
    assert torch.equal(first.input_ids, batch.input_ids[:2])
    assert first.loss_weights is not None and first.loss_weights.shape == (2, 6)
    # The documents of the rows that are left out become empty ones at the end.
    assert first.cu_seqlens.tolist() == [0, 6, 12, 12, 12]
    assert batch.cu_seqlens.tolist() == [0, 6, 12, 18, 24]
