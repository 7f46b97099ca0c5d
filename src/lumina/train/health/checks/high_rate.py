"""A learning rate that spoils the weights in the first steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lumina.plan.plan import Plan
from lumina.train.health.check import Alarm, Check, median, number, register_check
from lumina.train.health.window import after_warm_up, window_of

LATEST = 3
"""Steps whose medians are judged."""

FIRST = 10
"""Steps whose gradients are those of weights that have hardly been trained."""

MOST_WINDOWS = 64

ABOUT_THE_RATE = ("adam", "lion", "schedule_free", "sign_sgd")
"""How the names begin of optimizers that change each weight by about the rate."""


@register_check
class HighRate(Check):
    """A run whose rate is far too high from its start.

    Other checks compare with a window before, and such a run has none that is sound:
    it soon stays where the frequencies of the tokens alone would bring it. So this one
    compares with the first steps, and knows two signs. The model becomes worse than it
    was before its first step. Or the loss is level early, with little learned, while
    the gradients are a fraction of the first ones: the large steps have driven the
    weights to a place where activations are saturated and nothing can be learned.

    The loss of a run may be level early for other reasons (a large epsilon or batch,
    small initial weights), and a lower rate would make those worse. So the second sign
    counts only where one step is large beside the initial weights: in a layer of width
    d they contribute std x sqrt(d) to an activation, and a step of a rate r in every
    weight contributes r x d where it is coherent (Yang et al. 2022, "Tensor Programs
    V"). Tuned rates make that ratio about 1 to 3 in most models.
    """

    name = "high_rate"
    penalty = 40
    prior = 0.8
    worse, steeper, needed, learned = 0.05, 1.5, 0.4, 0.9
    gone, level, half, untrained, large = 0.2, 0.01, 0.5, 0.8, 5.0
    rule = (
        "by the medians of 3 steps, a loss more than 5% above that of the first step, "
        "a gradient norm more than 1.5 times that of the first step, and a product of "
        "the rise of the loss and that factor of more than 0.4 (a loss 10% higher with "
        "4 times the norm, or 20% higher with twice the norm), as long as no median "
        "loss of 10 steps was below 90% of the first loss; or, of a model that is "
        "trained from nothing, after warm-up, from the third window to half of the "
        "run: a median loss that is above half of the first one and has fallen by less "
        "than 1% since the window in the middle of the run so far, with a median "
        "gradient norm below a fifth of that of the first 10 steps, where the highest "
        "rate so far times the root of the width is more than 5 times the spread of "
        "the initial weights (optimizers of the kind of Adam)"
    )

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.window = window_of(plan)

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Compare the last steps with the first, and windows with each other."""
        memory = self.memory
        loss, norm = number(row, "loss"), number(row, "grad_norm")
        if memory.get("over") or loss is None or norm is None:
            return None
        if "first" not in memory:
            memory["first"] = [loss, norm]
        rate = row.get("learning_rate") or 0.0
        memory["peak"] = max(memory.get("peak", 0.0), rate)
        losses = self.keep("losses", loss, self.window)
        norms = self.keep("norms", norm, self.window)
        seen = memory["seen"] = memory.get("seen", 0) + 1
        if seen == FIRST:
            memory["steep"] = median(norms)
        alarm = None
        if not memory.get("better"):
            latest = losses[
                -FIRST:
            ]  # a run that has learned and spikes is none of these
            learns = median(latest) < self.learned * self._first
            memory["better"] = len(latest) == FIRST and learns
            alarm = None if memory["better"] else self._spoilt(losses, norms)
        if seen % self.window == 0:
            windows = self.keep(
                "windows", [median(losses), median(norms)], MOST_WINDOWS
            )
            if alarm is None and after_warm_up(self.plan, row["step"]):
                alarm = self._stuck(windows, seen)
            low = windows[-1][0] < self.half * self._first
            if low or len(windows) == MOST_WINDOWS:
                memory.clear()
                memory["over"] = True
        return alarm

    @property
    def _first(self) -> float:
        """The loss of the first step."""
        return float(self.memory["first"][0])

    @property
    def _takes_large_steps(self) -> bool:
        """Whether a step at the highest rate is large beside the first weights."""
        spec = self.plan.spec
        scale = self.memory["peak"] * math.sqrt(spec.hidden_size)
        large = scale > self.large * spec.init_std
        return large and self.plan.optimizer.startswith(ABOUT_THE_RATE)

    def _spoilt(self, losses: list[float], norms: list[float]) -> Alarm | None:
        """Whether the model is worse than it was before its first step."""
        height, steepness = self.memory["first"]
        if len(norms) <= LATEST or min(height, steepness) <= 0:
            return None
        now, steep = median(losses[-LATEST:]), median(norms[-LATEST:])
        rise, factor = now / height - 1, steep / steepness
        excess = rise * factor / self.needed
        if rise <= self.worse or factor <= self.steeper or excess <= 1:
            return None
        return Alarm(
            f"the loss is {now:.4f} after {height:.4f} in the first step, and the "
            f"gradient norm {steep:.3g} after {steepness:.3g}: the learning rate is "
            "far too high",
            {"first": height, "loss": now, "norm": steep, "first_norm": steepness},
            "error",
            self.sure(excess),
        )

    def _stuck(self, windows: list[list[float]], steps: int) -> Alarm | None:
        """Whether little was learned, nothing more is, and the gradients have gone."""
        early = 2 * FIRST <= steps <= self.plan.steps // 2
        if len(windows) < 3 or not early or not self._takes_large_steps:
            return None
        known_nothing = math.log(self.plan.spec.vocab_size)
        if self._first < self.untrained * known_nothing:
            return None
        before, (now, norm) = windows[(len(windows) - 1) // 2][0], windows[-1]
        share = norm / max(self.memory["steep"], 1e-30)
        falls = now < (1 - self.level) * before or now < self.half * self._first
        if falls or share >= self.gone:
            return None
        return Alarm(
            f"the loss has come from {self._first:.4f} to {now:.4f} and falls no more "
            f"(it was {before:.4f} at half of these {steps:,} steps), while the "
            f"gradient norm is {share:.2g} times that of the first steps: the learning "
            "rate is far too high",
            {"first": self._first, "loss": now, "before": before, "share": share},
            "error",
            self.sure(self.gone / max(share, 1e-3)),
        )
