"""Rules: what watches a run and changes it through its controls.

A further rule is a subclass of `Rule` under `@register_rule` in a file of its own: a
plug-in file, or a name in the list of imports below.
"""

from lumina.train.rules import (
    adaptive_sources,
    domain_shift,
    expert_capacity,
    orchestrator,
    phase_convergence,
    safe_optimizations,
    training_health,
)
from lumina.train.rules.arbiter import Ruling
from lumina.train.rules.decide import with_rules
from lumina.train.rules.rule import RULES, Now, Proposal, Reversal, Rule, register_rule
from lumina.train.rules.running import RunningRules

__all__ = [
    "RULES",
    "Now",
    "Proposal",
    "Reversal",
    "Rule",
    "Ruling",
    "RunningRules",
    "register_rule",
    "with_rules",
]

OWN = (
    expert_capacity,
    adaptive_sources,
    phase_convergence,
    domain_shift,
    training_health,
    orchestrator,
    safe_optimizations,
)
"""The files of Lumina's own rules; each registers them as it is imported."""
