"""Experts, depths, recursions and reasoners."""

from __future__ import annotations

from lumina.observe.metric_table.core import EVALUATED
from lumina.observe.metric_table.metric import Metric

TITLE = "Routing and reasoning"

ROUTED = "every step, with routed experts"
DEPTHS = "every step, with `use_mod`"
RECURSIONS = "every step, with `use_mor`"
REASONS = "every step, with a reasoner"

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
        "moe.capacity_utilization",
        "share of the experts' places that were taken, "
        "by layer; null where places are not limited",
        "",
        "(assigned - dropped) / (capacity_factor x assigned)",
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
    Metric(
        "mod.selected_ratio",
        "share of the tokens that went through the block, by layer",
        "",
        "",
        DEPTHS,
        ("selected_token_ratio",),
    ),
    Metric(
        "mod.compute_savings",
        "tokens that passed the layers by",
        "percent",
        "100 x (1 - mean(selected_ratio))",
        DEPTHS,
        ("compute_savings",),
    ),
    Metric(
        "mod.flops_reduction",
        "operations of a dense model that this saves",
        "percent",
        "",
        DEPTHS,
        ("flops_reduction",),
    ),
    Metric(
        "mod.router_score",
        "mean score of the tokens that were taken, by layer",
        "",
        "",
        DEPTHS,
        ("avg_routing_score",),
    ),
    Metric(
        "mod.threshold",
        "lowest score of a token that was taken, mean over rows, by layer",
        "",
        "",
        DEPTHS,
        ("routing_threshold",),
    ),
    Metric(
        "mod.predictor_accuracy",
        "share of the tokens for which the causal predictor "
        "says what the router chose, by layer",
        "",
        "",
        DEPTHS,
        ("routing_accuracy",),
    ),
    Metric(
        "mod.predictor_loss",
        "loss of that predictor, before its weight",
        "nats",
        "",
        DEPTHS,
    ),
    Metric(
        "mod.selected_token_loss",
        "mean loss of the tokens that were taken",
        "nats per token",
        "",
        DEPTHS,
        ("selected_token_loss",),
    ),
    Metric(
        "mod.skipped_token_loss",
        "mean loss of the tokens that passed by",
        "nats per token",
        "",
        DEPTHS,
        ("skipped_token_loss",),
    ),
    Metric(
        "mor.depth_share",
        "share of the tokens that enter each recursion",
        "",
        "",
        RECURSIONS,
    ),
    Metric(
        "mor.mean_depth", "mean number of recursions of a token", "", "", RECURSIONS
    ),
    Metric(
        "mor.choice_share",
        "share of the tokens that chose each depth",
        "",
        "",
        RECURSIONS,
    ),
    Metric(
        "mor.dropped_fraction",
        "tokens that found no place in a recursion, as a share of all",
        "",
        "",
        RECURSIONS,
    ),
    Metric(
        "mor.router_accuracy",
        "share of the tokens for which the causal router decides as top k does",
        "",
        "",
        RECURSIONS,
    ),
    Metric(
        "mor.router_loss",
        "loss of that router, before its weight",
        "nats",
        "",
        RECURSIONS,
    ),
    Metric(
        "mor.balance_loss", "balance loss of the choice of depths", "", "", RECURSIONS
    ),
    Metric(
        "mor.z_loss",
        "mean squared log-sum-exp of the router's logits",
        "",
        "",
        RECURSIONS,
    ),
    Metric("act.halt_loss", "loss of the decision to halt", "nats", "", REASONS),
    Metric(
        "act.continue_loss", "loss of the estimate of going on", "nats", "", REASONS
    ),
    Metric(
        "act.halted_share", "share that halted before the last segment", "", "", REASONS
    ),
    Metric("act.mean_steps", "mean number of segments", "segments", "", REASONS),
    Metric(
        "act.active_share",
        "share of the tokens that take each segment",
        "",
        "",
        REASONS,
    ),
    Metric(
        "act.accuracy",
        "share of the tokens that are right where they halt",
        "",
        "",
        REASONS,
    ),
    Metric(
        "act.exact_accuracy",
        "share of the finished puzzles that are right everywhere",
        "",
        "",
        REASONS,
    ),
    Metric(
        "act.q_accuracy",
        "share of the decisions to halt that are right",
        "",
        "",
        REASONS,
    ),
    Metric(
        "eval_exact_accuracy",
        "share of the held-out puzzles that are right everywhere",
        "",
        "",
        EVALUATED,
    ),
    Metric(
        "eval_mean_steps",
        "segments that a held-out token took",
        "segments",
        "",
        EVALUATED,
    ),
    Metric(
        "eval_NAME",
        "a score of the held-out answers, such as that of ARC's two attempts",
        "",
        "",
        EVALUATED,
    ),
)
