"""Reasoners that halt."""

from __future__ import annotations

from lumina.observe.metric_table.core import EVALUATED
from lumina.observe.metric_table.metric import Metric

TITLE = "Reasoning"

REASONS = "every step, with a reasoner"

METRICS = (
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
