"""Mixture of Recursions."""

from __future__ import annotations

from lumina.observe.metric_table.metric import Metric

TITLE = "Recursions"

RECURSIONS = "every step, with `use_mor`"

METRICS = (
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
)
