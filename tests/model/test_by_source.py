"""Losses by source: weighted, without what does not count, null where not known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lumina.batch import IGNORE, Batch
from lumina.model.by_source import SOURCES, source_metrics, source_sums
from lumina.model.interface import LossSums


def batch() -> Batch:
    """Rows of the sources 0, 2 and 2; one label of the second row is left out."""
    labels = torch.tensor([[1, 2], [3, IGNORE], [4, 5]])
    made = Batch.from_rows(torch.zeros_like(labels), labels)
    return replace(made, source_ids=torch.tensor([0, 2, 2]))


def sums(each: torch.Tensor | None) -> LossSums:
    terms = {} if each is None else {"each": each}
    return LossSums(torch.zeros(()), torch.zeros(()), terms)


EACH = torch.tensor([[1.0, 2.0], [3.0, math.nan], [4.0, 6.0]])


def test_each_source_has_the_sum_of_its_own_rows() -> None:
    found = source_sums(sums(EACH), batch(), 3)
    assert found.tolist() == [[3.0, 2.0], [0.0, 0.0], [13.0, 3.0]]
    weighted = replace(batch(), loss_weights=torch.full((3, 2), 0.5))
    assert source_sums(sums(EACH), weighted, 3).tolist() == [
        [1.5, 1.0],
        [0.0, 0.0],
        [6.5, 1.5],
    ]


def test_a_source_without_tokens_or_losses_has_none() -> None:
    row = source_metrics("abc", {SOURCES: source_sums(sums(EACH), batch(), 3)})
    assert row["source.a.loss"] == 1.5 and row["source.b.loss"] is None
    assert row["source.c.loss"] == pytest.approx(13 / 3)
    assert [row[f"source.{n}.tokens"] for n in "abc"] == [0.4, 0.0, 0.6]
    unknown = source_metrics("abc", {SOURCES: source_sums(sums(None), batch(), 3)})
    assert unknown["source.a.loss"] is None and unknown["source.a.tokens"] == 0.4
    assert source_metrics((), {}) == {}
