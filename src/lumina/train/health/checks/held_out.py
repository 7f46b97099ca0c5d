"""What evaluations say: overfitting, and what was learned and is lost again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina.plan.plan import Plan
from lumina.train.health.check import Alarm, Check, median, number, register_check
from lumina.train.health.window import error_of_difference, level, window_of


@register_check
class Overfitting(Check):
    """The training loss falls while the held-out loss rises."""

    name = "overfitting"
    penalty = 15
    prior = 0.8
    share, times = 0.01, 2
    rule = (
        "two evaluations in a row with a held-out loss more than 1% above the lowest "
        "so far and not falling, while the mean training loss between evaluations is "
        "lower than it was before that one"
    )

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Add up the training loss between evaluations."""
        loss = number(row, "loss")
        if loss is not None:
            count, total = self.memory.get("sum", [0, 0.0])
            self.memory["sum"] = [count + 1, total + loss]
        return None

    def see_evaluation(self, step: int, metrics: Mapping[str, Any]) -> Alarm | None:
        """Compare with the evaluation that was the best."""
        found, memory = number(metrics, "eval_loss"), self.memory
        count, total = memory.pop("sum", [0, 0.0])
        if found is None or not count:
            return None
        trained, last = total / count, memory.get("last", found)
        memory["last"] = found
        best, then = memory.get("best", [None, None])
        if best is None or found < best:
            memory |= {"best": [found, trained], "times": 0}
            return None
        worse = found > (1 + self.share) * best and found >= last and trained < then
        memory["times"] = memory.get("times", 0) + 1 if worse else 0
        if memory["times"] < self.times:
            return None
        return Alarm(
            f"the held-out loss rose from {best:.4f} to {found:.4f}, while the "
            f"training loss fell from {then:.4f} to {trained:.4f}",
            {"best": best, "held_out": found, "before": then, "trained": trained},
            confidence=self.sure((found / best - 1) / self.share / 2),
        )


@register_check
class Forgetting(Check):
    """An accuracy that drops at once, or a source that is predicted worse than it was.

    The accuracy of the training tokens is compared with a window before, that of
    evaluations with the best so far, and so is the held-out loss of each source.
    """

    name = "forgetting"
    penalty = 20
    prior = 0.85
    share, errors, same = 0.15, 5.0, 0.02
    rule = (
        "a median token accuracy of a short window (a third of a window, 5 steps and "
        "more) more than 5 standard errors and more than 15% below that of the window "
        "before; an evaluation with an accuracy more than 15% below its best and a "
        "held-out loss more than 2% above its lowest, or with the held-out loss of a "
        "source more than 15% above its lowest"
    )

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.window = window_of(plan)
        self.short = max(self.window // 3, 5)

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Compare the last steps with the window before."""
        right, memory = number(row, "token_accuracy"), self.memory
        if right is None:
            return None
        latest = self.keep("latest", right, self.short + 1)
        if len(latest) <= self.short:
            return None
        before: list[float] = memory.setdefault("accuracies", [])
        now = median(latest[1:])
        if len(before) == self.window:
            usual = level(before)
            error = error_of_difference(usual.spread, self.short, self.window)
            fall = max(self.errors * error, self.share * usual.middle)
            if now < usual.middle - fall:
                memory["times"] = memory.get("times", 0) + 1
                if memory["times"] > self.window:  # a new level
                    memory.clear()
                return self._dropped("token accuracy", usual.middle, now)
        memory["times"] = 0
        self.keep("accuracies", latest[0], self.window)
        return None

    def see_evaluation(self, step: int, metrics: Mapping[str, Any]) -> Alarm | None:
        """Compare with the best of each figure."""
        alarm = None
        best: dict[str, float] = self.memory.setdefault("best", {})
        lost = self._lost(metrics)
        for key in sorted(metrics):
            found = number(metrics, key)
            if found is None:
                continue
            if key.endswith("eval_accuracy"):
                most = best[key] = max(found, best.get(key, found))
                if lost and found < (1 - self.share) * most:
                    alarm = alarm or self._dropped(f"`{key}`", most, found)
            elif key.startswith("source.") and key.endswith(".eval_loss"):
                least = best[key] = min(found, best.get(key, found))
                if found > (1 + self.share) * least:
                    alarm = alarm or self._dropped(f"`{key}`", least, found)
        return alarm

    def _lost(self, metrics: Mapping[str, Any]) -> bool:
        """Whether the held-out loss lets a lower accuracy count.

        The accuracy of a few held-out rows is noisy: where their loss is the lowest so
        far, or hardly above it, nothing is lost.
        """
        loss = number(metrics, "eval_loss")
        if loss is None:
            return True
        lowest: float = min(loss, self.memory.get("lowest", loss))
        self.memory["lowest"] = lowest
        return loss > (1 + self.same) * lowest

    def _dropped(self, what: str, before: float, now: float) -> Alarm:
        change = abs(now - before) / before
        return Alarm(
            f"the {what} went from {before:.4f} to {now:.4f}: the run forgets what it "
            "had learned",
            {"before": before, "now": now},
            confidence=self.sure(change / self.share),
        )
