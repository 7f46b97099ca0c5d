"""Numbers that leave the range in which the arithmetic is good."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lumina.plan.plan import Plan
from lumina.train.health.check import Alarm, Check, median, number, register_check
from lumina.train.health.window import falls, window_of


@register_check
class Underflow(Check):
    """Gradients that are lost in the arithmetic.

    Adam divides by the root of the mean square of gradients plus eps: where gradients
    are as small as eps, updates vanish before the gradients do, and the loss follows
    (Wortsman et al. 2023, "Small-scale proxies for large-scale Transformer training
    instabilities").
    """

    name = "underflow"
    penalty = 15
    prior = 0.8
    times, skips = 10.0, 0.2
    rule = (
        "the median over a window of the gradient norm divided by the root of the "
        "number of parameters, below 10 times `--eps`; or, with float16 after the "
        "first window, a fifth of the steps of a window skipped"
    )

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.window = window_of(plan)

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Both, over the window up to this step."""
        memory, plan = self.memory, self.plan
        seen = memory["seen"] = memory.get("seen", 0) + 1
        if plan.compute_dtype == "float16":
            counts = self.keep("skipped", int(row.get("skipped") or 0), self.window + 1)
            share = (counts[-1] - counts[0]) / self.window
            if seen > 2 * self.window and share >= self.skips:
                return Alarm(
                    f"{counts[-1] - counts[0]} of the last {self.window} steps were "
                    "skipped: the loss scale finds no value at which float16 holds the "
                    "gradients",
                    {"share": share},
                    confidence=self.sure(share / self.skips),
                )
        norm = number(row, "grad_norm")
        if norm is None or not plan.parameters:
            return None
        norms = self.keep("norms", norm, self.window)
        if len(norms) < self.window:
            return None
        size = median(norms) / math.sqrt(plan.parameters)
        if size >= self.times * plan.eps:
            return None
        return Alarm(
            f"the gradients of {self.window} steps have a root mean square of "
            f"{size:.3g}, which is lost beside eps = {plan.eps:.3g}",
            {"root_mean_square": size, "eps": plan.eps},
            confidence=self.sure(self.times * plan.eps / max(size, 1e-30)),
        )


@register_check
class AttentionLogits(Check):
    """Attention logits that are large and grow: the attention is about to freeze.

    It looks at `largest_attention_logit`, in the rows that have it. In 160 clean runs
    of `lumina bench adaptive` no such median was above 151; in misconfigured ones they
    reached 28,500. Runs of small batches that learn well reach 400, so that logits
    below ten times the limit are only told of while the loss falls.
    """

    name = "attention_logits"
    penalty = 10
    prior = 0.7
    large, growth, points = 250.0, 1.5, 8
    harmless, far = 0.55, 10.0
    rule = (
        "a largest attention logit whose median over the last 4 rows that have one is "
        "above 250 and more than 1.5 times that of the 4 such rows before. Below 2,500 "
        "the confidence is 0.55 at most while the loss falls (the median of the second "
        "half of a window is 2 standard errors below that of the first)"
    )

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.reads_every = plan.measures.get("attention_logits", 1)

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Compare the last rows with those before."""
        if (loss := number(row, "loss")) is not None:
            self.keep("losses", loss, window_of(self.plan))
        largest = number(row, "largest_attention_logit")
        if largest is None:
            return None
        found = self.keep("found", largest, self.points)
        if len(found) < self.points:
            return None
        half = self.points // 2
        before, now = median(found[:half]), median(found[half:])
        if now <= self.large or now <= self.growth * before:
            return None
        sure = self.sure(now / self.large)
        learns = now < self.far * self.large and falls(self.memory.get("losses", []))
        return Alarm(
            f"the largest attention logit grew from {before:.3g} to {now:.3g}",
            {"before": before, "now": now},
            confidence=min(sure, self.harmless) if learns else sure,
        )
