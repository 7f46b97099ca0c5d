"""What would need a model to judge: bias."""

from __future__ import annotations

from lumina.data.quality.check import Check, Item, Result


class Bias(Check):
    """Whether texts are biased."""

    name = "bias"
    title = "bias"
    rank = 22

    def see(self, item: Item) -> None:
        """Nothing can be said of it."""

    def result(self) -> Result:
        """It is not assessed."""
        return self.not_assessed("it would need a model that was made to find it")


CHECK = Bias
