"""How often each token was seen: by source, without padding, on from a checkpoint."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lumina.assemble.vocabulary_counts import RARE_BELOW, VocabularyCounts
from lumina.batch import Batch
from lumina.parallel.mesh import RankGroup

ALONE = RankGroup((0,), 0)


def batch(rows: list[list[int]], sources: list[int]) -> Batch:
    """Rows of token ids; -1 is padding."""
    ids = torch.tensor(rows)
    made = Batch.from_rows(ids.clamp(min=0))
    return replace(
        made,
        document_ids=torch.where(ids < 0, -1, 0),
        source_ids=torch.tensor(sources),
    )


@pytest.mark.covers("DAT-18: vocabulary coverage monitored")
def test_shares_of_the_vocabulary_are_those_of_the_tokens_seen() -> None:
    counts = VocabularyCounts(8, ("a", "b"), torch.device("cpu"))
    counts.add(batch([[1, 1, 2, -1], [3, 3, 3, 3]], [0, 1]))
    for _ in range(RARE_BELOW // 2):
        counts.add(batch([[1, 2, -1, -1]], [0]))
    found = counts.metrics(ALONE)
    assert found["vocabulary_seen"] == 3 / 8  # padding is token 0, and not seen
    assert found["source.a.vocabulary_seen"] == 2 / 8
    assert found["source.b.vocabulary_seen"] == 1 / 8
    assert found["vocabulary_rare"] == 3 / 8
    for _ in range(RARE_BELOW - 2 - RARE_BELOW // 2):  # then it was seen 10 times
        counts.add(batch([[1, -1, -1, -1]], [0]))
    found = counts.metrics(ALONE)
    assert found["vocabulary_rare"] == 2 / 8 == found["source.a.vocabulary_rare"] * 2
    other = VocabularyCounts(8, ("a", "b"), torch.device("cpu"))
    other.restore(counts.whole(ALONE), main=True)
    assert other.metrics(ALONE) == found
    other.restore(counts.whole(ALONE), main=False)
    assert not other.counts.any()
