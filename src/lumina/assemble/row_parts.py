"""The part of each row that this rank trains, where several ranks share rows."""

from __future__ import annotations

from lumina.batch import Batch
from lumina.ops.attention.masks import document_starts
from lumina.ops.attention.ring.link import Link
from lumina.ops.attention.ring.part import RowPart
from lumina.ops.attention.ring.zigzag import Zigzag
from lumina.parallel.mesh import RankGroup
from lumina.parallel.ring_link import RingLink


class RowParts:
    """Takes this rank's part of the rows of batches.

    Args:
        group: the ranks that share each row, in the order of their ring.
    """

    def __init__(self, group: RankGroup) -> None:
        self._rank, self._size = group.rank, group.size
        self._link: Link | None = RingLink(group) if group.size > 1 else None

    def of(self, batch: Batch) -> Batch:
        """This rank's columns of whole rows; where no rank shares them, all of them.

        Labels, positions and documents are those of the whole rows, so that a token
        counts and is rotated as it is there.

        Args:
            batch: whole rows, on the host: what attention sees is worked out there.
        """
        if self._link is None:
            return batch
        zigzag = Zigzag(batch.input_ids.shape[1], self._size)
        starts = None
        if not batch.one_document_rows:
            starts = zigzag.part(document_starts(batch.document_ids), self._rank)
        return batch.part_of(
            lambda x_bs: zigzag.part(x_bs, self._rank),
            zigzag.size(self._rank),
            RowPart(zigzag, self._rank, len(batch.input_ids), starts, self._link),
        )
