"""Experts that carry too much or nothing, and depths that are predicted badly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina.train.health.check import Alarm, Check, mean, register_check

WINDOW = 50


@register_check
class ExpertImbalance(Check):
    """A layer whose experts are used very unevenly, over many steps."""

    name = "expert_imbalance"
    penalty = 15
    idle, full = 0.25, 4.0
    rule = (
        "over 50 steps, after 100: a quarter or more of a layer's experts with less "
        "than a tenth of an even load, or one with more than 4 times an even load"
    )

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Average the loads of a window, one after the other."""
        loads = row.get("moe.load")
        memory = self.memory
        if not loads:
            return None
        memory["seen"] = memory.get("seen", 0) + 1
        if memory["seen"] <= WINDOW:  # routing settles
            return None
        sums = memory.get("sums") or [[0.0] * len(layer) for layer in loads]
        memory["sums"] = [
            [a + b for a, b in zip(one, layer, strict=True)]
            for one, layer in zip(sums, loads, strict=True)
        ]
        if memory["seen"] % WINDOW:
            return None
        found = memory.pop("sums")
        for layer, total in enumerate(found):
            even = [share * len(total) / WINDOW for share in total]
            few = sum(share < 0.1 for share in even)
            if few >= max(self.idle * len(even), 1) or max(even) > self.full:
                return Alarm(
                    f"over {WINDOW} steps {few} of {len(even)} experts of the routed "
                    f"layer {layer} have less than a tenth of an even load, and the "
                    f"fullest has {max(even):.1f} times as much",
                    {"layer": layer, "idle": few, "fullest": max(even)},
                    confidence=self.sure(
                        max(few / max(self.idle * len(even), 1), max(even) / self.full)
                    ),
                )
        return None


@register_check
class DepthRouting(Check):
    """A predictor of chosen tokens that is worse than a guess."""

    name = "depth_routing"
    penalty = 10
    margin = 0.05
    rule = (
        "over 50 steps, after 200: a layer's predictor right less often, by 0.05, than "
        "one that always says the more frequent answer"
    )

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Compare accuracy and ratio of the last rows, once in a window."""
        accuracy, ratio = (
            row.get("mod.predictor_accuracy"),
            row.get("mod.selected_ratio"),
        )
        if not accuracy or not ratio:
            return None
        pairs = self.keep("pairs", [accuracy, ratio], WINDOW)
        seen = self.memory["seen"] = self.memory.get("seen", 0) + 1
        if seen < 4 * WINDOW or seen % WINDOW:
            return None
        for layer in range(len(accuracy)):
            right = mean([one[0][layer] for one in pairs])
            share = mean([one[1][layer] for one in pairs])
            guess = max(share, 1 - share)
            if right < guess - self.margin:
                return Alarm(
                    f"the predictor of layer {layer} is right for {right:.1%} of the "
                    f"tokens, and saying always the same would be for {guess:.1%}",
                    {"layer": layer, "accuracy": right, "guess": guess},
                    confidence=self.sure((guess - right) / self.margin),
                )
        return None
