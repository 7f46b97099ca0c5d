"""Depths that are chosen badly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina.plan.plan import Plan
from lumina.quantities import share as in_percent
from lumina.train.health.check import Alarm, Check, mean, register_check
from lumina.train.health.window import window_of


@register_check
class DepthRouting(Check):
    """Depths that are chosen badly: too few tokens, too many, or badly predicted.

    Where the number of chosen tokens is set, their share says nothing: it is judged
    where a threshold chooses, and so differs from the capacity.
    """

    name = "depth_routing"
    penalty = 10
    margin, low, many, own = 0.05, 0.3, 0.8, 0.02
    rule = (
        "over a window, after four: a layer's predictor right less often, by 0.05, "
        "than one that always says the more frequent answer; or, where the share of "
        "computed tokens is not the capacity that is set, a share below 0.3 or above "
        "0.8"
    )

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.window = self.reads_every = window_of(plan)

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Compare accuracy and ratio of the last rows, once in a window."""
        ratio = row.get("mod.selected_ratio")
        if not ratio:
            return None
        right = row.get("mod.predictor_accuracy") or [None] * len(ratio)
        pairs = self.keep("pairs", [right, ratio], self.window)
        seen = self.memory["seen"] = self.memory.get("seen", 0) + 1
        if seen < 4 * self.window or seen % self.window:
            return None
        for layer in range(len(ratio)):
            share = mean([one[1][layer] for one in pairs])
            known = [one[0][layer] for one in pairs if one[0][layer] is not None]
            alarm = self._share(layer, share)
            if alarm is None and len(known) == len(pairs):
                alarm = self._predictor(layer, mean(known), share)
            if alarm is not None:
                return alarm
        return None

    def _share(self, layer: int, share: float) -> Alarm | None:
        """Whether a threshold takes too few tokens, or too many."""
        mod = self.plan.spec.mod
        if mod is None:
            return None
        set_by_plan = (mod.capacity, *mod.ladder, *mod.schedule)
        if any(abs(share - one) < self.own for one in set_by_plan):
            return None
        if self.low <= share <= self.many:
            return None
        what = "only" if share < self.low else "as much as"
        excess = self.low / max(share, 1e-3) if share < self.low else share / self.many
        return Alarm(
            f"layer {layer} computes {what} {in_percent(share)} of the tokens",
            {"layer": layer, "ratio": share},
            confidence=self.sure(excess),
        )

    def _predictor(self, layer: int, right: float, share: float) -> Alarm | None:
        """Whether the predictor is worse than a guess."""
        guess = max(share, 1 - share)
        if right >= guess - self.margin:
            return None
        return Alarm(
            f"the predictor of layer {layer} is right for {right:.1%} of the "
            f"tokens, and saying always the same would be for {guess:.1%}",
            {"layer": layer, "accuracy": right, "guess": guess},
            confidence=self.sure((guess - right) / self.margin),
        )
