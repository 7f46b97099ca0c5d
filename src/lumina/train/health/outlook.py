"""What a run is heading for: its convergence, and what may end it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lumina.plan.plan import Plan
from lumina.plan.schedule import learning_rate_at
from lumina.quantities import share as in_percent
from lumina.train.health.check import mean, number
from lumina.train.health.checks.experts import floor_of
from lumina.train.health.prediction import Point, Prediction, predict
from lumina.train.health.sums import Sums
from lumina.train.health.window import after_warm_up, line, window_of

NEAR = 0.8
"""Share of the limit of the gradient norm from which a rising one is a risk."""

CROWDED = 0.85
"""Share of the memory from which growth is a risk."""

ADVICE = {
    "gradient_explosion_risk": "lower the learning rate or clip more",
    "oom_risk": "halve the micro-batch or use gradient checkpointing",
    "divergence_risk": "lower the learning rate or go back to an earlier step",
    "expert_collapse_risk": "raise the weight of the balance loss or its bias rate",
}
"""Risk -> what to do about it."""


class Outlook:
    """Keeps what predictions need of the rows of a run, in little memory.

    Args:
        plan: of the run.

    Attributes:
        memory: plain JSON values.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.window = window_of(plan)
        self.memory: dict[str, Any] = {}

    def see(self, row: Mapping[str, Any]) -> None:
        """Take in a row."""
        memory = self.memory
        memory["step"] = int(row["step"])
        loss, norm = number(row, "loss"), number(row, "grad_norm")
        used = number(row, "agreed_memory_share")
        if loss is not None:
            self._keep("losses", loss)
            if after_warm_up(self.plan, row["step"]):
                memory.setdefault("begin", int(row["step"]) - 1)
                course = memory.setdefault("course", {})
                rates = memory.setdefault("rates", {})
                Sums(course).add(loss)
                rate = number(row, "learning_rate") or 0.0
                Sums(rates).add(rate / (self.plan.learning_rate or 1.0))
        if norm is not None and norm > 0:
            self._keep("norms", math.log(norm))
        if used is not None:
            self._keep("used", used)
        if loads := row.get("moe.load"):
            emptiest = min(min(x) / floor_of(len(x)) for x in loads)
            self._keep("emptiest", emptiest)

    def see_evaluation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Take in an evaluation after `step` steps."""
        found = {key: number(metrics, key) for key in ("eval_loss", "eval_accuracy")}
        self.memory["last_evaluation"] = found | {"step": step}
        self.memory.setdefault("first_evaluation", found | {"step": step})

    def _keep(self, name: str, value: float) -> None:
        values = self.memory.setdefault(name, [])
        values.append(value)
        del values[: -self.window]

    def convergence(self) -> Prediction:
        """What is to be expected of the loss at the end of the run."""
        plan, memory = self.plan, self.memory
        if "course" not in memory:
            return Prediction(reason="too few steps since the warm-up")
        course, rates = memory["course"], memory["rates"]["parts"]
        points, step = [], float(memory["begin"])
        for (count, total, squares), rate in zip(course["parts"], rates, strict=True):
            if count < course["size"]:
                continue  # the stretch under way
            variance = max(squares / count - (total / count) ** 2, 0.0)
            middle = step + (count + 1) / 2
            error = math.sqrt(variance / count)
            points.append(Point(middle, total / count, error, rate[1] / count))
            step += count
        peak = plan.learning_rate or 1.0
        return predict(
            points,
            memory["step"],
            plan.steps,
            lambda at: learning_rate_at(plan, min(at, plan.steps) - 1) / peak,
        )

    def failure(self) -> dict[str, Any]:
        """The risks of the run, each from 0 to 1.

        Returns:
            `gradient_explosion_risk`, `oom_risk`, `divergence_risk` and
            `expert_collapse_risk`; `overall_risk_score`, the greatest of them;
            `risk_factors` and `recommended_actions`, a sentence for each that is not 0.
        """
        found = {
            "gradient_explosion_risk": self._explosion(),
            "oom_risk": self._memory(),
            "divergence_risk": self._divergence(),
            "expert_collapse_risk": self._collapse(),
        }
        there = [name for name, (risk, _) in found.items() if risk > 0]
        return {
            **{name: risk for name, (risk, _) in found.items()},
            "overall_risk_score": max(risk for risk, _ in found.values()),
            "risk_factors": [found[name][1] for name in there],
            "recommended_actions": [ADVICE[name] for name in there],
        }

    def _rising(self, name: str) -> tuple[float, float, float]:
        """Mean of the latest values, slope for each step, and how sure the rise is.

        The last is the slope by its standard error; 0 where there are too few values.
        """
        values = self.memory.get(name, [])
        if len(values) < self.window:
            return (values[-1] if values else 0.0), 0.0, 0.0
        slope, fit = line(values)
        # R^2 of a straight line may come out a rounding above 1.
        error = math.sqrt(max(1 - fit, 0.0) / max(fit, 1e-12) / (len(values) - 2))
        sure = math.copysign(1 / max(error, 1e-6), slope) if fit > 0 else 0.0
        return mean(values[-max(self.window // 5, 1) :]), slope, sure

    def _explosion(self) -> tuple[float, str]:
        height, _, sure = self._rising("norms")
        limit = self.plan.gradient_norm_limit
        norm = math.exp(min(height, 700.0)) if self.memory.get("norms") else 0.0
        if norm > limit:
            return 0.95, f"the gradient norm is {norm:.3g}, above {limit:g}"
        if norm <= NEAR * limit or sure < 3:
            return 0.0, ""
        return 0.7, f"the gradient norm rises and is {norm:.3g} of {limit:g}"

    def _memory(self) -> tuple[float, str]:
        used, slope, sure = self._rising("used")
        if used <= CROWDED or sure < 3 or slope * self.window < 1e-3:
            return 0.0, ""
        text = f"the memory in use grows and is {in_percent(used)} of the device"
        return min(0.8 + 0.15 * (used - CROWDED) / (1 - CROWDED), 0.95), text

    def _divergence(self) -> tuple[float, str]:
        height, slope, sure = self._rising("losses")
        rise = slope * self.window / max(abs(height), 1e-12)
        if sure < 4 or rise < 0.02:
            return 0.0, ""
        text = f"the loss rose by {rise:.1%} in {self.window} steps"
        return min(0.6 + rise, 0.95), text

    def _collapse(self) -> tuple[float, str]:
        emptiest, _, sure = self._rising("emptiest")
        if "emptiest" not in self.memory or emptiest >= 1 or sure > -2:
            return 0.0, ""
        text = "the emptiest expert has hardly a token, and ever fewer"
        return min(0.75 + 0.2 * (1 - emptiest), 0.95), text
