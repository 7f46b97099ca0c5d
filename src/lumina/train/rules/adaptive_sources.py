"""Adaptive interleaving: more base text while it is predicted badly, else less."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lumina.plan.plan import Plan
from lumina.train.rules.rule import Now, Proposal, Rule, register_rule

STEP = 0.05
"""How much the share of the base text changes at a time."""


@register_rule
class AdaptiveSources(Rule):
    """Moves the share of the base text between bounds, once in a window of steps.

    At the end of a window, a perplexity of the held-out base text above its threshold
    asks for more base text, an accuracy on the held-out fine-tuning data below its
    threshold for less. Where both do, the figure that is further from its threshold
    decides, each measured as a share of the threshold. A window without an evaluation
    has the perplexity of the base text that was trained on, and no accuracy.

    Attributes:
        losses: sum of the training losses of the base text in the window.
        count: steps that had one.
        steps: steps of the window so far.
        base_loss: held-out loss of the base text in the window; None: not measured.
        accuracy: of the fine-tuning data, likewise.
        share: of the base text, in the step seen last.
    """

    name = "adaptive_sources"
    changes = ("source_weights",)

    def __init__(self) -> None:
        self.settings: dict[str, float] = {}
        self.base = self.other = ""
        self.share = 0.0
        self._begin()

    def _begin(self) -> None:
        self.losses, self.count, self.steps = 0.0, 0, 0
        self.base_loss: float | None = None
        self.accuracy: float | None = None

    @classmethod
    def wanted(cls, plan: Plan) -> str | None:
        """On where interleaving is adaptive."""
        return "interleaving_strategy is adaptive" if plan.adaptive else None

    @classmethod
    def made_for(cls, plan: Plan) -> AdaptiveSources:
        """With the bounds and thresholds of the Plan."""
        rule = cls()
        rule.settings = dict(plan.adaptive)
        rule.base, rule.other = plan.sources
        return rule

    def see(self, row: Mapping[str, Any]) -> None:
        """Take in the loss of the base text in a step."""
        self.share = row[f"source.{self.base}.weight"]
        loss = row[f"source.{self.base}.loss"]
        self.steps += 1
        if loss is not None and math.isfinite(loss):
            self.losses += loss
            self.count += 1

    def see_evaluation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Take in the held-out loss of one source and the accuracy of the other."""
        self.base_loss = metrics.get(f"source.{self.base}.eval_loss", self.base_loss)
        key = f"source.{self.other}.eval_accuracy"
        self.accuracy = metrics.get(key, self.accuracy)

    def propose(self, step: int, now: Now) -> Proposal | None:
        """At the end of a window, the share that its figures ask for."""
        # At the row after the window, so that an evaluation at its end counts.
        if self.steps <= self.settings["window"]:
            return None
        loss = self.base_loss
        if loss is None and self.count:
            loss = self.losses / self.count
        accuracy, share = self.accuracy, self.share
        self._begin()
        self.steps = 1
        evidence = {"base_share": share}
        high = low = 0.0
        if loss is not None:
            evidence["base_perplexity"] = math.exp(min(loss, 700.0))
            high = evidence["base_perplexity"] / self.settings["perplexity"] - 1.0
        if accuracy is not None:
            evidence["task_accuracy"] = accuracy
            low = 1.0 - accuracy / self.settings["accuracy"]
        if max(high, low) <= 0:
            return None
        least, most = self.settings["least"], self.settings["most"]
        if high >= low:
            wanted = min(share + STEP, max(most, share))
            why = (
                f"the perplexity of {self.base} is {evidence['base_perplexity']:.4g}, "
                f"above {self.settings['perplexity']:g}"
            )
        else:
            wanted = max(share - STEP, min(least, share))
            why = (
                f"the accuracy on {self.other} is {accuracy:.3g}, "
                f"below {self.settings['accuracy']:g}"
            )
        wanted = round(wanted, 6)
        if wanted == round(share, 6):
            return None
        weights = {self.base: wanted, self.other: round(1.0 - wanted, 6)}
        return Proposal("source_weights", weights, why, evidence=evidence)

    def state(self) -> dict[str, Any]:
        """The window under way."""
        names = ("losses", "count", "steps", "base_loss", "accuracy", "share")
        return {name: getattr(self, name) for name in names}

    def load(self, state: dict[str, Any]) -> None:
        """Go on in the middle of a window."""
        for name, value in state.items():
            setattr(self, name, value)
