"""Actions that move one number by a factor or a step, between two bounds."""

from __future__ import annotations

from typing import ClassVar

from lumina.plan.plan import Plan
from lumina.plan.schedule import mean_rate
from lumina.train.health.watching import Finding
from lumina.train.orchestrator.actions.action import Action, register_action
from lumina.train.rules.rule import Now, Proposal

SHOWS = 0.05
"""Share of a weight that another weight decay has to leave, in the rest of a run."""


class Scaled(Action):
    """A number is multiplied, or where it is 0 begins; it stays between bounds.

    Attributes:
        factor: what it is multiplied by.
        start: its first value where it is 0.
        least: what it does not fall below.
        most: what it does not exceed.
        words: the change in words, before the value.
    """

    level = 1
    factor: ClassVar[float]
    start: ClassVar[float] = 0.0
    least: ClassVar[float] = 0.0
    most: ClassVar[float]
    words: ClassVar[str]

    def proposal(self, finding: Finding, now: Now, plan: Plan) -> Proposal | None:
        """The next value; None at the bound, or where nothing would change."""
        value = float(now(self.control))
        wanted = value * self.factor if value else self.start
        if self.factor > 1:
            wanted = max(value, min(wanted, self.most))
        else:
            wanted = min(value, max(wanted, self.least))
        wanted = round(wanted, 6)
        if wanted == round(value, 6):
            return None
        return self.changed(finding, wanted, f"{self.words} {wanted:g}")


@register_action
class MoreWeightDecay(Scaled):
    """Twice the weight decay."""

    name = "more_weight_decay"
    control = "weight_decay"
    factor, start, most = 2.0, 0.01, 0.2
    words = "raise the weight decay to"


@register_action
class LessWeightDecay(Scaled):
    """Half the weight decay, where that can show before the run is over.

    A step takes from every weight a share of decay times learning rate. Where all steps
    that are left take less than `SHOWS` less than they would, nothing comes of it.
    """

    name = "less_weight_decay"
    control = "weight_decay"
    factor, least, most = 0.5, 0.001, 1.0
    words = "lower the weight decay to"

    def proposal(self, finding: Finding, now: Now, plan: Plan) -> Proposal | None:
        """The next value; None at the bound, or where it is too little to show."""
        found = super().proposal(finding, now, plan)
        if found is None:
            return None
        left = max(plan.steps - finding.step, 0)
        rates = left * mean_rate(plan, finding.step)
        return found if (now(self.control) - found.value) * rates >= SHOWS else None


@register_action
class MoreDropout(Scaled):
    """More dropout."""

    name = "more_dropout"
    level = 2
    control = "dropout"
    factor, start, most = 1.5, 0.1, 0.3
    words = "raise dropout to"


@register_action
class MoreCapacity(Scaled):
    """More places for each expert."""

    name = "more_capacity"
    control = "capacity_factor"
    factor, most = 1.25, 2.8
    words = "raise the capacity of the experts to"


@register_action
class HigherTemperature(Scaled):
    """More even routing."""

    name = "higher_temperature"
    control = "routing_temperature"
    factor, start, most = 1.25, 1.0, 2.0
    words = "raise the routing temperature to"


@register_action
class MoreExpertDropout(Scaled):
    """Experts are hidden now and then, so that others are chosen."""

    name = "expert_dropout"
    control = "expert_dropout"
    factor, start, most = 2.0, 0.05, 0.2
    words = "hide experts from a token with the chance"


@register_action
class MoreJitter(Scaled):
    """Noise on the router's logits."""

    name = "router_jitter"
    control = "router_jitter_noise"
    factor, start, most = 2.0, 0.01, 0.1
    words = "raise the noise of the routers to"
