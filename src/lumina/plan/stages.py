"""The sources of a run, how their shares change, and its phases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina.config.source_entries import source_paths, watched_sources
from lumina.plan.decisions import Decisions, source_of

if TYPE_CHECKING:
    from lumina.config import Config


def decide_stages(config: Config, decisions: Decisions) -> None:
    """Fix the sources, and what may change their shares or end a phase.

    Which phase the Plan is of, a run says when it begins.
    """
    stages = config.stages
    decisions.decide("sources", tuple(source_paths(config)), "as named")
    decisions.decide("watched", watched_sources(config), "those without a share")
    kept = stages.preserve_base_knowledge
    leaf = "preservation_strength" if kept else "preserve_base_knowledge"
    strength = stages.preservation_strength if kept else 0.0
    decisions.decide("preservation", strength, source_of(config, leaf))
    for leaf in (
        "preservation_method", "preservation_temperature", "watch_vocabulary",
    ):  # fmt: skip
        decisions.decide(leaf, config.get(leaf), source_of(config, leaf))
    adaptive: dict[str, float] = {}
    mixed = stages.training_mode == "interleaved"
    if mixed and stages.interleaving_strategy == "adaptive":
        adaptive = {
            "window": stages.adjustment_window,
            "least": stages.min_base_ratio,
            "most": stages.max_base_ratio,
            "perplexity": stages.base_perplexity_threshold,
            "accuracy": stages.task_accuracy_threshold,
        }
    why = source_of(config, "interleaving_strategy")
    decisions.decide(
        "adaptive", adaptive, why if adaptive else "shares are not adaptive"
    )
    convergence: dict[str, float] = {}
    if stages.phase_transition == "convergence":
        convergence = {
            "window": stages.convergence_window,
            "threshold": stages.convergence_threshold,
        }
    why = source_of(config, "phase_transition")
    decisions.decide("convergence", convergence, why)
    decisions.decide("schedule_steps", 0, "the steps of this Plan")
    for field, value in (("phases", ()), ("phase", ""), ("phase_begin", 0)):
        decisions.decide(field, value, "the run has one part")
