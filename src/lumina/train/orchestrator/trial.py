"""What came of a decision: the measured loss against the one that was expected."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import stdev
from typing import Any

from lumina.quantities import counted
from lumina.train.health.check import mean, median
from lumina.train.orchestrator.decision import NOTHING, Measured, Outcome, Verdict
from lumina.train.orchestrator.figures import compared
from lumina.train.orchestrator.forecast import Forecast

DEVIATIONS = 3.0
"""Standard errors beyond which a loss is not the one that was expected."""

PAIRS = 3
"""Losses with and without a change that it takes to compare them."""

SHARE = 0.005
"""Share of the loss below which a difference does not count."""


@dataclass
class Trial:
    """A decision whose outcome is being measured.

    Attributes:
        number: of the decision.
        anomaly: what it is to help against.
        action: what was done.
        begin: the first step that is measured.
        wanted: losses to measure.
        expected: the curve without the decision; None where there is none.
        change: the id of the change in the journal; None where nothing was changed.
        control: what was changed.
        old: its value before.
        losses: (step, loss) of the measured steps.
        broken: measured steps without a finite loss.
        again: measured steps in which the anomaly was found.
        without: (step, loss) of a branch of the run in which nothing was changed.
        measures: what says whether it has helped; where it is not the loss, `losses`
            holds those figures.
        before: the same of steps before the change, where it is not the loss.
        enough: losses after which a run that was left alone is judged as soon as the
            anomaly is found again; None: `wanted`.
    """

    number: int
    anomaly: str
    action: str
    begin: int
    wanted: int
    expected: dict[str, Any] | None
    change: int | None = None
    control: str = ""
    old: Any = None
    losses: list[list[float]] = field(default_factory=list)
    broken: int = 0
    again: int = 0
    without: list[list[float]] = field(default_factory=list)
    measures: Measured = "loss"
    before: list[float] = field(default_factory=list)
    enough: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `Trial(**values)` is the inverse."""
        return asdict(self)

    def see(self, step: int, loss: float | None) -> None:
        """Take in the loss, or figure, of a step; None where it is not finite."""
        if step < self.begin:
            return
        if loss is None:
            self.broken += 1
        else:
            self.losses.append([float(step), loss])

    @property
    def complete(self) -> bool:
        """Whether enough steps were measured."""
        wanted = self.wanted
        if self.is_nothing and self.again and self.enough is not None:
            wanted = self.enough
        return len(self.losses) + self.broken >= wanted

    @property
    def is_nothing(self) -> bool:
        """Whether nothing was done, so that no more is hoped for than healing."""
        return self.action == NOTHING

    def outcome(self, step: int, interrupted: str = "") -> Outcome:
        """What the measured steps say.

        Args:
            step: of the last row.
            interrupted: why no more steps are measured; empty where all were.
        """
        if self.measures != "loss" and not interrupted:
            return self._by_figures(step)
        pairs = [] if interrupted else self._pairs()
        if len(pairs) >= PAIRS:
            return self._compared(step, pairs)
        if interrupted or self.expected is None:
            text = interrupted or "there were too few losses before it to compare with"
            return Outcome(self.number, step, "unclear", None, None, text)
        if self.broken > len(self.losses):
            text = f"{self.broken} of {self.wanted} losses were not finite"
            return Outcome(self.number, step, "worse", None, None, text)
        curve = Forecast(**self.expected)
        measured = median([loss for _, loss in self.losses])
        steps = [at for at, _ in self.losses]
        expected = curve.over(steps)
        margin = max(DEVIATIONS * curve.error(steps), SHARE * expected)
        verdict: Verdict = "same"
        if measured > expected + margin:
            verdict = "worse"
        elif not self.again and (measured < expected - margin or self.is_nothing):
            verdict = "better"
        without = "" if self.is_nothing else " without it"
        text = (
            f"the loss is {measured:.4f} where {expected:.4f} was expected{without} "
            f"(differences above {margin:.4f} count)"
        )
        if self.again:
            again = counted(self.again, "step")
            text += f"; {self.anomaly} was found again in {again}"
        elif self.is_nothing:
            text = f"{self.anomaly} was not found again meanwhile; {text}"
        return Outcome(self.number, step, verdict, measured, expected, text)

    def _by_figures(self, step: int) -> Outcome:
        """What came of a change that is about time or memory."""
        after = [figure for _, figure in self.losses]
        found = compared(self.measures, self.before, after)
        if found is None:
            text = "there were too few figures to compare"
            return Outcome(self.number, step, "unclear", None, None, text)
        return Outcome(
            self.number, step, found.verdict, found.after, found.before, found.text
        )

    def _pairs(self) -> list[tuple[float, float]]:
        """The losses with the change and without it, of the same rows."""
        without = {at: loss for at, loss in self.without}
        return [(loss, without[at]) for at, loss in self.losses if at in without]

    def _compared(self, step: int, pairs: Sequence[tuple[float, float]]) -> Outcome:
        """What the branch without the change says.

        Two losses of the same rows differ by what the change did and little else, so
        that the error is that of the mean of their differences.
        """
        measured = mean([loss for loss, _ in pairs])
        expected = mean([loss for _, loss in pairs])
        apart = [loss - other for loss, other in pairs]
        spread = stdev(apart)
        margin = max(DEVIATIONS * spread / math.sqrt(len(pairs)), SHARE * expected)
        verdict: Verdict = "same"
        if measured > expected + margin:
            verdict = "worse"
        elif measured < expected - margin:
            verdict = "better"
        text = (
            f"the loss is {measured:.4f} where it is {expected:.4f} without it, "
            f"measured on the same rows (differences above {margin:.4f} count)"
        )
        return Outcome(self.number, step, verdict, measured, expected, text)
