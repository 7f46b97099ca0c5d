"""Routed experts."""

from __future__ import annotations

from lumina.observe.metric_table.metric import Metric

TITLE = "Experts"

ROUTED = "every step, with routed experts"

METRICS = (
    Metric(
        "moe.balance_loss",
        "balance loss, before its weight",
        "",
        "experts x sum(load x mean probability)",
        ROUTED,
        ("auxiliary_loss",),
    ),
    Metric(
        "moe.z_loss",
        "mean squared log-sum-exp of the router's logits, before its weight",
        "",
        "",
        ROUTED,
    ),
    Metric(
        "moe.load",
        "share of the assignments that each expert got, by layer",
        "",
        "",
        ROUTED,
        ("expert_usage",),
    ),
    Metric(
        "moe.load_variance",
        "variance over the experts of their load, 1 being an even one, by layer",
        "",
        "var(experts x load)",
        ROUTED,
        ("expert_load_variance",),
    ),
    Metric(
        "moe.balance_score",
        "how even the load is, 1 at best, by layer",
        "",
        "1 - std(load) / mean(load)",
        ROUTED,
        ("expert_balance_score",),
    ),
    Metric(
        "moe.load_entropy",
        "entropy of the load, by layer",
        "nats",
        "-sum(load x ln(load))",
        ROUTED,
    ),
    Metric(
        "moe.router_entropy",
        "mean entropy of a token's probabilities, by layer",
        "nats",
        "mean(-sum(p x ln(p)))",
        ROUTED,
        ("routing_entropy",),
    ),
    Metric(
        "moe.router_confidence",
        "mean of a token's highest probability, by layer",
        "",
        "mean(max(p))",
        ROUTED,
        ("routing_confidence",),
    ),
    Metric(
        "moe.experts_per_token",
        "experts that a token went through, by layer",
        "",
        "(assigned - dropped) / tokens",
        ROUTED,
        ("avg_experts_per_token",),
    ),
    Metric(
        "moe.dropped_fraction",
        "share of the assignments for which an expert had no place, by layer",
        "",
        "dropped / assigned",
        ROUTED,
        ("dropped_tokens",),
    ),
    Metric(
        "moe.rerouted_fraction",
        "share of the assignments that found a place at the token's next best expert, "
        "by layer",
        "",
        "sent on / assigned",
        "every step, with `--overflow reroute`",
    ),
    Metric(
        "moe.capacity_utilization",
        "share of the experts' places that were taken, "
        "by layer; null where places are not limited",
        "",
        "(assigned - dropped) / (capacity_factor x assigned), with `--overflow "
        "reroute` over 1.25 times as many",
        ROUTED,
        ("capacity_utilization",),
    ),
    Metric(
        "moe.overflow_fraction",
        "share of the assignments beyond an even load times "
        "the capacity factor, by layer",
        "",
        "",
        ROUTED,
    ),
    Metric(
        "moe.max_violation",
        "how far the fullest expert is above an even load, by layer",
        "",
        "experts x max(load) - 1",
        ROUTED,
    ),
    Metric(
        "moe.imbalance_ratio",
        "the fullest expert over the emptiest, by layer; null where one got nothing",
        "",
        "max(load) / min(load)",
        ROUTED,
        ("expert_imbalance_ratio",),
    ),
    Metric(
        "moe.collapsed_experts",
        "experts with less than a tenth of an even load, by layer",
        "experts",
        "",
        ROUTED,
        ("expert_collapse_count",),
    ),
    Metric(
        "moe.dead_experts", "experts that got no token, by layer", "experts", "", ROUTED
    ),
)
