"""What an adaptive run decided."""

from __future__ import annotations

from lumina.observe.metric_table.metric import Metric

TITLE = "Decisions"

ADAPTIVE = "every step, with `adaptive` shadow or on"

METRICS = (
    Metric("total_decisions", "decisions so far", when=ADAPTIVE),
    Metric(
        "decisions_per_epoch",
        "decisions for each pass over the data",
        formula="total_decisions / max(epoch, 1)",
        when=ADAPTIVE,
    ),
    Metric(
        "decision_confidence",
        "confidence of the newest decision, from 0 to 1; null before the first",
        when=ADAPTIVE,
    ),
    Metric(
        "lr_adjustments", "changes of the learning rate by decisions", when=ADAPTIVE
    ),
    Metric(
        "architecture_changes",
        "changes of experts and depths by decisions",
        when=ADAPTIVE,
    ),
    Metric(
        "emergency_interventions",
        "changes of level 3 and 4 by decisions",
        when=ADAPTIVE,
    ),
    Metric("rollbacks_performed", "times that decisions went back", when=ADAPTIVE),
    Metric(
        "successful_strategies",
        "changes after which the loss was better than predicted without them",
        when=ADAPTIVE,
    ),
    Metric(
        "prediction_accuracy",
        "share of the predictions of an undisturbed loss that came true; null before "
        "the first",
        when=ADAPTIVE,
    ),
    Metric(
        "meta_learning_runs",
        "earlier runs whose outcomes the decisions rest on",
        when=ADAPTIVE,
    ),
    Metric("anomalies_detected", "anomalies that began", when=ADAPTIVE),
    Metric("anomalies_resolved", "anomalies that are over", when=ADAPTIVE),
)
