"""The losses of a step by the source that each row comes from, added up on the device.

A mixture marks the rows of its batches (`Batch.source_ids`). What is added up here
rides along with the other counts of a step, so that nothing is read back to find it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from lumina.batch import Batch
    from lumina.model.interface import LossSums

SOURCES = "source.statistics"
"""[sources, 2]: cross entropy and counted tokens of each source."""


def source_shapes(names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """What is counted in a run with these sources, with its shape."""
    return {SOURCES: (len(names), 2)} if names else {}


def source_sums(losses: LossSums, batch: Batch, sources: int) -> Tensor:
    """[sources, 2], see `SOURCES`, of one batch.

    Where the objective does not report the loss of every token, the losses are not
    numbers.
    """
    import torch

    from lumina.batch import IGNORE

    assert batch.source_ids is not None, "the rows of a mixture have sources"
    counted = (batch.labels != IGNORE).float()
    if batch.loss_weights is not None:
        counted = counted * batch.loss_weights
    each = losses.terms.get("each")
    if each is None:
        loss = torch.full_like(counted[:, 0], math.nan)
    else:  # a position that does not count may have no finite loss
        loss = torch.where(counted > 0, each.float() * counted, 0.0).sum(1)
    mine = batch.source_ids == torch.arange(sources, device=loss.device)[:, None]
    columns = [torch.where(mine, one, 0.0).sum(1) for one in (loss, counted.sum(1))]
    return torch.stack(columns, dim=1).detach()


def source_metrics(
    names: Sequence[str], counted: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Of each source: its mean loss, and its share of the counted tokens.

    A source without a token in the step has no loss.
    """
    if not names:
        return {}
    statistics = counted[SOURCES]
    total = max(float(statistics[:, 1].sum()), 1.0)
    row: dict[str, Any] = {}
    for name, (loss, tokens) in zip(names, statistics.tolist(), strict=True):
        known = tokens and not math.isnan(loss)
        row[f"source.{name}.loss"] = loss / tokens if known else None
        row[f"source.{name}.tokens"] = tokens / total
    return row
