"""What would need a model to judge."""

from __future__ import annotations

from lumina.data.quality.check import Check, Item, Result


class Factuality(Check):
    """Whether what texts say is true."""

    name = "factuality"
    title = "factual accuracy"
    rank = 21
    answers = ("factually_accurate",)

    def see(self, item: Item) -> None:
        """Nothing can be said of it."""

    def result(self) -> Result:
        """It is not assessed."""
        return self.not_assessed("it would need a model that knows the facts")


CHECK = Factuality
