"""What is added up over the tokens of a step beside the losses, and made a metric.

A further one is a subclass of `TokenCount` under `@register_token_count` in a file of
its own in `lumina.model.token_counts`, named like the key of `Plan.measures` that asks
for it. The sums ride along with the other counts of a step, so that nothing is read
back to find them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from lumina.found_by_name import FoundByName

if TYPE_CHECKING:
    from torch import Tensor

    from lumina.batch import Batch
    from lumina.model.interface import LossSums


class TokenCount:
    """Sums over the tokens of a batch.

    Attributes:
        name: of the measure that asks for it.
        key: under which the sums ride along.
        shape: of the sums.
    """

    name: ClassVar[str]
    key: ClassVar[str]
    shape: ClassVar[tuple[int, ...]]

    @staticmethod
    def sums(losses: LossSums, batch: Batch) -> Tensor:
        """[shape] float32 of one batch, which add up over batches and ranks."""
        raise NotImplementedError

    @staticmethod
    def metrics(counted: Tensor) -> dict[str, Any]:
        """Keys of the step's row, from the sums of the whole step."""
        raise NotImplementedError


TOKEN_COUNTS = FoundByName[type[TokenCount]]("lumina.model.token_counts")
"""Every token count whose file has been imported, by name."""

T = TypeVar("T", bound=type[TokenCount])


def register_token_count(cls: T) -> T:
    """Enter a count in the table: a decorator of a subclass of `TokenCount`."""
    TOKEN_COUNTS[cls.name] = cls
    return cls


def token_counts(measures: Mapping[str, int]) -> Iterator[type[TokenCount]]:
    """Those that a run with these measures asks for."""
    for name, every in measures.items():
        count = TOKEN_COUNTS.found(name) if every else None
        if count is not None:
            yield count


def token_sums(
    measures: Mapping[str, int], losses: LossSums, batch: Batch
) -> dict[str, Tensor]:
    """The sums of one batch by key."""
    return {count.key: count.sums(losses, batch) for count in token_counts(measures)}


def bears_loss(batch: Batch) -> Tensor:
    """[B, S] bool: which tokens count."""
    from lumina.batch import IGNORE

    counted_bs = batch.labels != IGNORE
    if batch.loss_weights is not None:
        counted_bs = counted_bs & (batch.loss_weights > 0)
    return counted_bs
