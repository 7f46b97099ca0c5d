"""A way of being parallel outside the package: gradients are added up by hand."""

from contextlib import contextmanager

import lumina
from lumina.parallel.way import Way


@lumina.register_parallel("by_hand")
class ByHand(Way):
    """Whole weights on every rank; one exchange for each gradient, after the last."""

    summary = "every process holds the model, gradients are added up by hand"

    @classmethod
    def refuses(cls, conditions):
        """Experts: one that no token of a rank chose has no gradient there."""
        if conditions.spec.moe is not None:
            return "needs a gradient of every parameter on every rank, so no experts"
        return None

    @contextmanager
    def sync(self, last):
        """After the last backward, replace every gradient by the ranks' mean."""
        yield
        ranks = self.place.mesh.tokens
        for parameter in self.place.network.parameters():
            if last and parameter.requires_grad:
                ranks.sum_(parameter.grad).div_(ranks.size)
