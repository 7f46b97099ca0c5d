"""The part of each row that a rank trains."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lumina.assemble.row_parts import RowParts
from lumina.batch import IGNORE, Batch
from lumina.model.build import build_network
from lumina.ops.attention.masks import document_starts
from lumina.ops.attention.ring.part import RowPart
from lumina.ops.attention.ring.zigzag import Zigzag
from lumina.parallel.mesh import RankGroup
from networks import packed_batch, tiny_spec

PACKED = packed_batch([[9, 21, 8], [38], [3, 30]], 38)


def parts_of(batch: Batch, ranks: int) -> list[Batch]:
    """What each rank of a ring has of a batch."""
    groups = (RankGroup(tuple(range(ranks)), rank) for rank in range(ranks))
    return [RowParts(group).of(batch) for group in groups]


@pytest.mark.covers("DST-15")
def test_the_parts_of_all_ranks_are_the_rows() -> None:
    """Each token once, with the label, position and document that it has there."""
    parts = parts_of(PACKED, 2)
    zigzag = Zigzag(38, 2)
    for name in ("input_ids", "labels", "position_ids", "document_ids"):
        whole = zigzag.whole([getattr(part, name) for part in parts])
        assert torch.equal(whole, getattr(PACKED, name)), name
    counted = [(part.labels != IGNORE).sum().item() for part in parts]
    assert sum(counted) == (PACKED.labels != IGNORE).sum()
    assert all(part.cu_seqlens.tolist()[:2] == [0, 19] for part in parts)
    some = parts[1].rows(1, 3).part
    assert isinstance(some, RowPart) and some.count == 2 and some.starts is not None
    starts = zigzag.part(document_starts(PACKED.document_ids), 1)
    assert torch.equal(some.starts, starts[1:])


def test_one_rank_has_whole_rows() -> None:
    (only,) = parts_of(PACKED, 1)
    assert only is PACKED and only.part is None


@pytest.mark.parametrize("shape", [{}, {"window_size": 5, "attention_sinks": 2}])
def test_a_network_sees_by_the_part_what_it_sees_in_the_rows(
    shape: dict[str, int],
) -> None:
    """A ring of one, in which the operation and its gradients are those of a ring."""
    network = build_network(tiny_spec(seq_length=38, **shape)).initialise(1)
    starts = document_starts(PACKED.document_ids)
    part = RowPart(Zigzag(38, 1), 0, 3, starts)
    found: list[list[Tensor]] = []
    for batch in (PACKED, PACKED.part_of(lambda x: x, 38, part)):
        losses, _ = network(batch)
        losses.loss_sum.backward()
        grads = [p.grad for p in network.parameters() if p.grad is not None]
        found.append([losses.loss_sum.detach(), *grads])
        network.zero_grad(set_to_none=True)
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)
