"""Optimisations on trial: watched after they are switched on, off where they harm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import Any

from lumina.features import FEATURES, Feature
from lumina.plan.plan import Plan
from lumina.train.controls.change import Change
from lumina.train.rules.rule import Note, Now, Proposal, Rule, register_rule

SMOOTHING = 0.9
"""What a moving average keeps of itself from one step to the next."""

SETTLED = 5
"""Steps after a change that are compared with nothing: warm-up and compiling."""

GROUP = 9
"""Steps in a row whose median time is compared, at most: one step can be slow because
the machine had other work."""

FEWEST = 3
"""Steps of a group, at least: in a window with room for fewer, throughput is no
trouble."""

KEPT = 20
"""Medians of groups that tell what is usual."""

SURE = 0.95
"""Confidence of what follows from counted troubles."""


class _Switches:
    """The controls of all optimisations that a running job can leave out."""

    def __get__(self, rule: object, cls: type) -> tuple[str, ...]:
        return ("rollback", *(name for name, one in FEATURES.items() if _may(one)))


def _may(feature: Feature) -> bool:
    """Whether it is an optimisation that can be switched off while a run trains."""
    return (
        bool(feature.claim and feature.faster)
        and feature.change_cost == "reassemble"
        and feature.has_fallback
    )


def watched(plan: Plan) -> tuple[str, ...]:
    """The optimisations of a Plan that are watched."""
    return tuple(n for n, one in FEATURES.items() if _may(one) and one.is_active(plan))


@register_rule
class SafeOptimizationsRule(Rule):
    """Switches an optimisation off that brings trouble while it is on trial.

    One is on trial from the step at which it was switched on, for a window of steps;
    after as many steps without trouble it is stable and not blamed any more. Trouble is
    a loss above a multiple of its moving average, nine steps of which most have less
    than a share of the usual throughput, and, of compiled blocks, a step in which a
    graph was compiled again; three within a window switch it off, and so does one
    gradient or loss that is not finite. Of several on trial the one that came last is
    blamed. Trouble in what is learned takes the run back to the newest state that is
    known to be good, and the rows are trained on again; where there is none, that is
    refused and said, and the run goes on as it is.

    Attributes:
        limits: `Plan.safe`.
        trial: optimisation -> the step at which its trial began.
        clean: optimisation -> steps without trouble.
        strikes: optimisation -> steps of its troubles.
        times: seconds of the steps of the group that is not full yet.
        groups: the median seconds of the groups before that were not slow.
        stable: those that graduated.
        off: those that were switched off by this rule, and why.
    """

    name = "safe_optimizations"
    changes = _Switches()  # type: ignore[assignment]
    precedence = 20

    def __init__(self, plan: Plan) -> None:
        self.limits = dict(plan.safe)
        # A loss scale that adapts itself overflows now and then.
        self.overflows = plan.compute_dtype == "float16"
        self.trial: dict[str, int] = dict.fromkeys(watched(plan), 0)
        self.clean: dict[str, int] = dict.fromkeys(self.trial, 0)
        self.strikes: dict[str, list[int]] = {name: [] for name in self.trial}
        self.stable: list[str] = []
        self.off: dict[str, str] = {}
        self.loss: float | None = None
        self.times: list[float] = []
        self.groups: list[float] = []
        self.skipped = 0
        self._seen = 0
        self._ask: dict[str, Any] | None = None
        self._back: dict[str, Any] | None = None
        self._again: list[str] = []
        self._notes: list[Note] = []

    @classmethod
    def wanted(cls, plan: Plan) -> str | None:
        """On where the Plan has an optimisation that can be switched off."""
        names = (*watched(plan), *plan.safe.get("waiting", ()))
        if not names or not plan.safe.get("watches"):
            return None
        return f"{', '.join(names)} can be switched off"

    @classmethod
    def made_for(cls, plan: Plan) -> SafeOptimizationsRule:
        """With the limits of the Plan."""
        return cls(plan)

    def see(self, row: Mapping[str, Any]) -> None:
        """Look for trouble, and blame what is on trial."""
        step = int(row["step"])
        self._seen = step
        trouble = self._trouble(row, step)
        if trouble is None:
            for name in list(self.trial):
                self.clean[name] += 1
                if self.clean[name] >= self.limits["window"]:
                    self._graduate(name, step)
            return
        kind, text = trouble
        if not self.trial:
            return  # nothing changed: it is not for this rule
        name = max(self.trial, key=lambda one: self.trial[one])
        if kind == "recompile":
            name = "compile"
        since = step - self.limits["window"]
        self.clean[name] = 0
        recent = [at for at in self.strikes[name] if at > since]
        self.strikes[name] = [*recent, step]
        count = len(self.strikes[name])
        told = {"optimization": name, "trouble": kind, "count": count}
        self._notes.append(
            Note(step, f"{name} is on trial: {text} ({count} so far)", told)
        )
        if kind == "not finite" or count >= self.limits["strikes"]:
            first = self.strikes[name][0]
            self._ask = {
                "name": name,
                "why": f"{text}, {count} time(s) within {step - first + 1} steps",
                "back": kind in ("not finite", "loss"),
                "steps": step - first + 1 + self.limits["window"],
            }

    def _trouble(self, row: Mapping[str, Any], step: int) -> tuple[str, str] | None:
        """What is wrong with a step, by kind and in words; averages learn the rest."""
        loss, skips = row.get("loss"), int(row.get("skipped") or 0)
        skipped, self.skipped = skips > self.skipped, skips
        bad = loss is not None and not math.isfinite(loss)
        if bad or (skipped and not self.overflows):
            what = "the loss" if bad else "a gradient"
            return "not finite", f"{what} is not finite"
        if loss is not None:
            usual, spike = self.loss, self.limits["spike"]
            if usual is not None and loss > spike * usual:
                text = f"the loss {loss:.4g} is above {spike:g} times its average"
                return "loss", f"{text} {usual:.4g}"
            self.loss = _smoothed(usual, loss)
        began = max(self.trial.values(), default=0)
        if step - began <= SETTLED:
            self.times, self.groups = [], []
            return None
        graphs = row.get("agreed_compiled_graphs")
        if graphs and "compile" in self.trial:
            return "recompile", f"{graphs:g} graphs were compiled again"
        slow = self._slow(row.get("agreed_step_seconds"))
        return None if slow is None else ("throughput", slow)

    @property
    def _group(self) -> int:
        """Steps of a group: so many that three follow the start within the window."""
        window, strikes = self.limits["window"], self.limits["strikes"]
        return int(min(GROUP, (window - SETTLED) // 3, window // strikes))

    def _slow(self, seconds: float | None) -> str | None:
        """What is to be said of a group of steps that this one ends, if it is slow.

        The first two groups only tell what is usual.
        """
        if self._group < FEWEST:
            return None
        if not seconds:
            return None
        self.times.append(seconds)
        size = self._group
        if len(self.times) < size:
            return None
        now, self.times = median(self.times), []
        usual = median(self.groups) if self.groups else now
        if len(self.groups) < 2 or self.limits["drop"] * now <= usual:
            self.groups = [*self.groups, now][-KEPT:]
            return None
        return (
            f"{1 / now:.3g} steps a second of {size} steps are below "
            f"{self.limits['drop']:g} times the usual {1 / usual:.3g}"
        )

    def _graduate(self, name: str, step: int) -> None:
        self._forget(name)
        self.stable.append(name)
        text = f"{name} is stable: {self.limits['window']} steps without trouble"
        told = {"optimization": name}
        self._notes.append(Note(step, text, told, "info"))

    def _forget(self, name: str) -> None:
        for held in (self.trial, self.clean, self.strikes):
            held.pop(name, None)  # type: ignore[attr-defined]

    def propose(self, step: int, now: Now) -> Proposal | None:
        """To switch off what is to blame, then to go back, then to stay so."""
        if self._ask is not None:
            name = self._ask["name"]
            evidence = {"strikes": float(len(self.strikes.get(name, [])))}
            return Proposal(name, False, self._ask["why"], evidence, SURE)
        if self._back is not None:
            value = {"steps": self._back["steps"], "skip_data": False}
            why = f"{self._back['name']} was switched off: {self._back['why']}"
            return Proposal("rollback", value, why, {}, SURE, "rollback")
        for name in self.off:
            if name in self._again or now(name):
                why = f"it was switched off before: {self.off[name]}"
                return Proposal(name, False, why, {}, SURE)
        return None

    def changed(self, change: Change, rule: str | None) -> None:
        """Follow what is switched on and off, by whomever."""
        if change.name == "rollback":
            if rule == self.name:
                self._back = None
            return
        if change.name not in FEATURES or not _may(FEATURES[change.name]):
            return
        name, mine = change.name, rule == self.name
        if change.outcome != "applied":
            if mine:
                self._ask = None
                self._forget(name)  # pinned, or impossible: said in the event
            return
        if change.value:
            self.trial[name], self.clean[name] = int(change.step or 0), 0
            self.strikes[name] = []
            self.off.pop(name, None)
            self.stable = [one for one in self.stable if one != name]
            return
        self._forget(name)
        self._again = [one for one in self._again if one != name]
        self.times, self.groups = [], []
        if mine and self._ask is not None:
            self.off[name] = self._ask["why"]
            self._back = self._ask if self._ask["back"] else None
            self._ask = None

    def rolled_back(self, step: int, then: dict[str, Any] | None) -> None:
        """Averages go back; what was switched off stays off."""
        off = dict(self.off)
        super().rolled_back(step, then)
        self.off |= off
        self._ask = self._back = None
        # The journal of that step does not have it.
        self._again = list(self.off)
        for name in off:
            self._forget(name)

    def notes(self) -> list[Note]:
        """Troubles and graduations since the last call."""
        found, self._notes = self._notes, []
        return found

    def status(self) -> dict[str, Any]:
        """What each optimisation is at present."""
        found = dict.fromkeys(self.trial, "TRIAL") | dict.fromkeys(
            self.stable, "STABLE"
        )
        return {"optimizations": found | dict.fromkeys(self.off, "DISABLED")}

    def state(self) -> dict[str, Any]:
        """Trials, averages, and what is under way."""
        return {
            "trial": dict(self.trial),
            "clean": dict(self.clean),
            "strikes": {name: list(some) for name, some in self.strikes.items()},
            "stable": list(self.stable),
            "off": dict(self.off),
            "loss": self.loss,
            "times": list(self.times),
            "groups": list(self.groups),
            "skipped": self.skipped,
            "ask": self._ask,
            "back": self._back,
            "again": list(self._again),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on in the middle of a trial."""
        for name in ("trial", "clean", "strikes", "off"):
            setattr(self, name, dict(state[name]))
        self.stable = list(state["stable"])
        self.loss = state["loss"]
        # A state of before there were groups has none.
        self.times = list(state.get("times", ()))
        self.groups = list(state.get("groups", ()))
        self.skipped = state["skipped"]
        self._ask, self._back = state["ask"], state["back"]
        self._again = list(state["again"])


def _smoothed(average: float | None, value: float) -> float:
    """The moving average with one value more."""
    if average is None:
        return value
    return SMOOTHING * average + (1 - SMOOTHING) * value
