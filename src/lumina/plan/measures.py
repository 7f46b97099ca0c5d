"""What is measured beside loss, rates and memory, and in which steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina.features import lacking
from lumina.plan.decisions import Decisions, source_of

if TYPE_CHECKING:
    from lumina.config import Config

LOGITS_SHARE, LEAST_LOGITS, MOST_LOGITS = 50, 10, 100
"""The largest attention logit is looked for this many times in a run, at least and at
most after this many steps."""

RANKS_SHARE, LEAST_RANKS, MOST_RANKS = 50, 5, 100
"""The ranks are compared this many times in a run, and so many steps apart."""


def decide_measures(config: Config, decisions: Decisions) -> None:
    """Decide `Plan.measures`: the name of a measure -> steps from one to the next."""
    asked = config.metrics
    found: dict[str, int] = {}
    if asked.metrics == "full":
        found["accuracy"] = 1
        found["log_z"] = 1
        if not config.offload.optimizer_in_backward:  # which keeps no gradients
            found["gradient_variance"] = config.run.log_every_n_batches
            found["gradient_groups"] = 1
            found["update_rms"] = config.run.log_every_n_batches
        found["utilisation"] = config.run.log_every_n_batches
    if config.train.qk_clip:
        found["logit_clip"] = 1
    else:
        found["attention_logits"] = _attention_logits(config, decisions.values["steps"])
    if asked.health_checks and decisions.values["world_size"] > 1:
        found["ranks"] = ranks_every(decisions.values["steps"])
    found |= {
        "health": int(asked.health_checks),
        "step_times": asked.step_times_every,
        "weight_changes": asked.weight_changes_every,
        "attention": asked.attention_stats_every,
        "layer_profile": asked.layer_profile_every,
        "expert_usage": asked.expert_usage_frequency * asked.log_expert_usage,
    }
    found = {name: every for name, every in found.items() if every}
    decisions.decide("measures", found, source_of(config, "metrics"))
    why = source_of(config, "gradient_norm_limit")
    decisions.decide("gradient_norm_limit", asked.gradient_norm_limit, why)


def ranks_every(steps: int) -> int:
    """Steps from one look at all ranks to the next, by the length of the run."""
    return min(max(steps // RANKS_SHARE, LEAST_RANKS), MOST_RANKS)


def _attention_logits(config: Config, steps: int) -> int:
    """Steps from one look at the largest attention logit to the next; 0: none."""
    asked = config.metrics
    if asked.attention_logits_every is not None:
        return asked.attention_logits_every
    others = any(name != "standard" for name in config.parts.attention_type)
    if asked.metrics != "full" or others or lacking(config, "attention_statistics"):
        return 0
    return min(max(steps // LOGITS_SHARE, LEAST_LOGITS), MOST_LOGITS)
