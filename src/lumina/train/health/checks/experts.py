"""Experts that carry too much or nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from statistics import pstdev
from typing import Any

from lumina.plan.plan import Plan
from lumina.quantities import share as in_percent
from lumina.train.health.check import Alarm, Check, mean, number, register_check
from lumina.train.health.window import level, window_of

TOKENS = 100
"""Assignments that an even load must give every expert in a window, before anything is
said of it."""

PARTS, LEAST = 12, 10
"""A window of a short run is a twelfth of it, and this many steps at least: an expert
that dies is found in two of them."""


class ExpertLoads(Check):
    """Averages the loads of experts over windows, and judges each window.

    The first window is left out, as routing settles. Alarms follow from two windows in
    a row. Experts come to be used unevenly in sound runs, too: while the mean loss of
    the windows goes on falling, an alarm is not sure enough for any action.
    """

    windows = 2
    harmless, errors = 0.55, 2.0

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.window = min(window_of(plan), max(plan.steps // PARTS, LEAST))
        self.reads_every = self.window
        self.top_k = plan.spec.moe.top_k if plan.spec.moe else 1

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Add up a window."""
        loads, memory = row.get("moe.load"), self.memory
        if not loads:
            return None
        seen = memory["seen"] = memory.get("seen", 0) + 1
        if seen <= self.window:
            return None
        sums = memory.get("sums") or [[0.0] * len(layer) for layer in loads]
        if [len(one) for one in sums] != [len(one) for one in loads]:  # other experts
            memory.clear()
            return None
        memory["sums"] = [
            [a + b for a, b in zip(one, layer, strict=True)]
            for one, layer in zip(sums, loads, strict=True)
        ]
        tokens = number(row, "loss_tokens") or 0.0
        memory["tokens"] = memory.get("tokens", 0.0) + tokens * self.top_k
        losses = self.keep("losses", number(row, "loss"), self.window)
        if seen % self.window:
            return None
        harms = self._harms([loss for loss in losses if loss is not None])
        shares = [[x / self.window for x in layer] for layer in memory.pop("sums")]
        assigned = memory.pop("tokens")
        before = memory.get("before")
        memory["before"] = shares
        if assigned < TOKENS * max(map(len, shares)):
            return None
        alarm = self.judged(shares, before)
        times = memory["times"] = memory.get("times", 0) + 1 if alarm else 0
        if alarm is None or times < self.windows:
            return None
        sure = alarm.confidence if harms else min(alarm.confidence, self.harmless)
        return replace(alarm, confidence=sure)

    def _harms(self, losses: list[float]) -> bool:
        """Whether the mean loss of a window is clearly above the lowest so far."""
        if not losses:
            return True
        now = level(losses)
        error = now.spread / math.sqrt(len(losses))
        lowest: float = min(self.memory.get("lowest", math.inf), mean(losses))
        self.memory["lowest"] = lowest
        return mean(losses) > lowest + self.errors * error

    def judged(
        self, shares: list[list[float]], before: list[list[float]] | None
    ) -> Alarm | None:
        """What is said of a window.

        Args:
            shares: of each layer, the share of the assignments of each expert.
            before: of the window before; None: there is none.
        """
        raise NotImplementedError


def _settles(before: list[float], now: list[float]) -> bool:
    """Whether a layer is clearly more even than in the window before."""
    emptiest = min(before) > 0 and min(now) > 1.2 * min(before)
    return emptiest or max(now) < 0.95 * max(before)


def floor_of(experts: int) -> float:
    """The share below which an expert is hardly used: 1%, or a tenth of an even one."""
    return min(0.01, 0.1 / experts)


@register_check
class ExpertImbalance(ExpertLoads):
    """A layer whose experts are used very unevenly."""

    name = "expert_imbalance"
    penalty = 15
    prior = 0.85
    ratio, uneven, deviation, fullest = 10.0, 1.5, 0.3, 4.0
    rule = (
        "in two windows in a row, after the first: a layer whose fullest expert has "
        "more than 10 times the share of its emptiest (an expert without a token "
        "makes that infinite) and more than 1.5 times an even one, and that does not "
        "become more even (the emptiest by a fifth, or the fullest by a twentieth, "
        "from window to window); one whose fullest has more than 4 times an even "
        "share; or whose shares have a standard deviation of more than 0.3. An even "
        "load must give every expert 100 assignments in a window. The confidence is "
        "0.55 at most while the mean loss of the window is within two standard errors "
        "of the lowest so far"
    )

    def judged(
        self, shares: list[list[float]], before: list[list[float]] | None
    ) -> Alarm | None:
        """The layer that is the most uneven."""
        worst: tuple[float, int] = (0.0, 0)
        for layer, found in enumerate(shares):
            even = max(found) * len(found)
            ratio = max(found) / min(found) if min(found) > 0 else math.inf
            excess = max(pstdev(found) / self.deviation, even / self.fullest)
            settles = before is None or _settles(before[layer], found)
            if even > self.uneven and not settles:
                excess = max(excess, min(ratio / self.ratio, 10.0))
            worst = max(worst, (excess, layer))
        excess, layer = worst
        if excess <= 1:
            return None
        most, least = max(shares[layer]), min(shares[layer])
        return Alarm(
            f"over {self.window} steps the fullest expert of the routed layer {layer} "
            f"has {in_percent(most)} of the tokens and the emptiest "
            f"{in_percent(least)}; even would be {in_percent(1 / len(shares[layer]))}",
            {"layer": layer, "most": most, "least": least},
            confidence=self.sure(excess),
        )


@register_check
class DeadExperts(ExpertLoads):
    """Experts that hardly a token goes to, and ever fewer."""

    name = "dead_experts"
    penalty = 15
    prior = 0.8
    rule = (
        "in two windows in a row, after the first: an expert with less than 1% of the "
        "assignments of its layer (with more than 10 experts, than a tenth of an even "
        "share) and no more than in the window before; the same least load and "
        "confidence as for `expert_imbalance`"
    )

    def judged(
        self, shares: list[list[float]], before: list[list[float]] | None
    ) -> Alarm | None:
        """All experts that are dead, or dying."""
        if before is None:
            return None
        dead = [
            (layer, expert)
            for layer, found in enumerate(shares)
            for expert, share in enumerate(found)
            if share < floor_of(len(found)) and share <= before[layer][expert]
        ]
        if not dead:
            return None
        layer, expert = dead[0]
        share, floor = shares[layer][expert], floor_of(len(shares[layer]))
        where = f"expert {expert} of the routed layer {layer}"
        has = f"hardly a token ({in_percent(share)} of them)"
        return Alarm(
            f"{where} has {has}"
            if len(dead) == 1
            else f"{len(dead)} experts have hardly a token; the first, {where}, has "
            f"{in_percent(share)} of them",
            {"count": len(dead), "layer": layer, "expert": expert, "share": share},
            confidence=self.sure(floor / max(share, floor / 10)),
        )
