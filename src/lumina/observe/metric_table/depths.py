"""Mixture of Depths."""

from __future__ import annotations

from lumina.observe.metric_table.metric import Metric

TITLE = "Depths"

DEPTHS = "every step, with `use_mod`"

METRICS = (
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
)
