"""Copies that learn apart, each from rows of its own, and are averaged now and then.

Local SGD (Stich, 2019, arXiv:1805.09767), where the clients of federated averaging
(McMahan et al., 2017, arXiv:1602.05629) are the processes of one run.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lumina.parallel.table import register_parallel
from lumina.parallel.way import Conditions, Way

if TYPE_CHECKING:
    from torch import Tensor


@register_parallel("independent")
class Independent(Way):
    """Every rank trains a model of its own, without exchanging gradients.

    Rows are divided as in DDP, so that no two ranks see the same one. At evaluations
    and checkpoints the weights, the moments and the averages of all ranks become their
    mean, from which every rank goes on: what is judged and saved is one model.
    """

    summary = (
        "each process trains a copy of its own, and copies are averaged when saved"
    )
    synchronised = False

    @classmethod
    def refuses(cls, conditions: Conditions) -> str | None:
        """What cannot be averaged, or would not be the same on all ranks."""
        if conditions.compute_dtype == "float16":
            return "would have a loss scale of its own on every rank"
        return super().refuses(conditions)

    def merge(self, tensors: Iterable[Tensor]) -> None:
        """Make each tensor its mean over the ranks, in place."""
        ranks = self.place.mesh.tokens
        for tensor in tensors:
            ranks.sum_(tensor).div_(ranks.size)
