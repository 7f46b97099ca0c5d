"""Which actions help against which anomaly, from the mildest to the strongest."""

from __future__ import annotations

_UNSTABLE = (
    "tighter_clip",
    "lower_rate",
    "reset_moments",
    "rollback",
    "rollback_lower_rate",
)
"""Against a loss or gradients that jump and stay."""

_PRECISION = ("compute_in_bf16", "compute_in_fp32")
"""Against numbers that leave the range or the grid of what a run computes in."""

_MEMORY = (
    "clear_cache",
    "smaller_micro_batch",
    "smaller_micro_batch",
    "recompute_activations",
    "recompute_activations",
    "divide_experts_further",
    "save_checkpoint",
)
"""Against memory that fills up. Where nothing more can be given back, the run saves
what it has before it runs out."""

LADDERS: dict[str, tuple[str, ...]] = {
    "safety_violation": ("pause",),
    "high_rate": ("restart_lower_rate", "cut_rate", "lower_rate"),
    "loss_spike": ("nothing", "tighter_clip", "reset_moments", "lower_rate"),
    "severe_loss_spike": ("nothing", *_UNSTABLE),
    "exploding_gradients": ("nothing", *_UNSTABLE),
    "oscillation": ("nothing", "lower_rate", "rewarm"),
    "divergence": (
        "lower_rate",
        "rollback_lower_rate",
        "reset_moments",
        *_PRECISION,
        "rollback_lower_rate",
        "stop_with_diagnosis",
    ),
    "nonfinite": (
        "nothing",
        "lower_rate",
        *_PRECISION,
        "rollback_lower_rate",
    ),
    "attention_logits": ("nothing", "lower_rate"),
    "log_z_drift": ("nothing", "more_weight_decay", "lower_rate"),
    "group_norm_outlier": (
        "nothing",
        "nothing",
        "nothing",
        "tighter_clip",
        "lower_rate",
    ),
    "underflow": (*_PRECISION, "smaller_epsilon"),
    "low_rate": ("raise_rate_far", "raise_rate"),
    "narrow_first_weights": ("wider_first_weights",),
    "large_epsilon": ("smaller_epsilon",),
    "short_second_moment": ("longer_second_moment", "lower_rate"),
    "plateau": (
        "final_reduction",
        "try_lower_rate",
        "raise_rate",
        "add_expert",
        "less_weight_decay",
    ),
    "slow_learning": ("reset_rate", "raise_rate"),
    "convergence": ("final_reduction", "evaluate_more"),
    "overfitting": (
        "nothing",
        "evaluate_more",
        "more_weight_decay",
        "more_dropout",
        "stop_early",
    ),
    "forgetting": ("nothing", "lower_rate", "rollback_lower_rate"),
    "expert_imbalance": (
        "nothing",
        "more_capacity",
        "router_jitter",
        "higher_temperature",
        "expert_dropout",
        "add_expert",
    ),
    "dead_experts": ("nothing", "router_jitter", "expert_dropout", "prune_expert"),
    "memory_risk": _MEMORY,
    "memory_leak": _MEMORY,
    "memory_pressure": _MEMORY,
    "memory_imbalance": (_MEMORY[0], "redistribute_experts", *_MEMORY[1:]),
    "slow_exchange": ("larger_buckets", "smaller_buckets"),
    "depth_routing": ("more_depth_capacity", "less_depth_capacity"),
}
"""Anomaly -> names of actions in the order in which they are tried. An anomaly without
a ladder is only told of. A name that no file has registered is passed over. No check of
Lumina's own raises `safety_violation`: it is for those of plug-ins."""

MUST_HELP = ("plateau", "slow_learning", "slow_exchange")
"""Anomalies that do no harm by themselves: a change against one of them is undone not
only where it made things worse, but also where it made no difference."""

DISTURBING = (
    "loss_spike",
    "severe_loss_spike",
    "exploding_gradients",
    "divergence",
    "nonfinite",
    "repeated_data",
    "high_rate",
)
"""Anomalies after which a run recovers for a while. A level loss over steps that have
one of them says nothing."""

PATIENT = (
    "plateau",
    "slow_learning",
    "expert_imbalance",
    "dead_experts",
    "depth_routing",
)
"""Anomalies that do their harm slowly, so that what helps takes as long to pay off:
nothing is changed against them when the run is nearly over."""

LATE = ("final_reduction",)
"""Actions that do good at the end of the run: no difference at first says nothing."""


def ladder_for(anomaly: str) -> tuple[str, ...]:
    """The ladder of an anomaly; empty where there is none."""
    return LADDERS.get(anomaly, ())


def must_help(anomaly: str, action: str) -> bool:
    """Whether a change is undone where it made no difference."""
    return anomaly in MUST_HELP and action not in LATE
