"""The earlier designs' names for metrics, mapped to the run directory's own."""

from __future__ import annotations

from typing import Any

ALIASES: dict[str, str] = {
    "train_loss": "loss",
    "raw_loss": "loss",
    "gradient_norm": "grad_norm",
    "step_time": "step_seconds",
    "memory_allocated": "memory_allocated_bytes",
    "memory_peak": "memory_peak_bytes",
    "auxiliary_loss": "moe.balance_loss",
    "expert_usage": "moe.load",
    "routing_entropy": "moe.load_entropy",
    "dropped_tokens": "moe.dropped_fraction",
    "selected_token_ratio": "mod.selected_ratio",
    "avg_routing_score": "mod.router_score",
    "routing_threshold": "mod.threshold",
    "compute_savings": "mod.compute_savings",
    "flops_reduction": "mod.flops_reduction",
    "routing_accuracy": "mod.predictor_accuracy",
    "selected_token_loss": "mod.selected_token_loss",
    "skipped_token_loss": "mod.skipped_token_loss",
}
"""Alias -> key of a metrics.jsonl row."""


def with_aliases(row: dict[str, Any]) -> dict[str, Any]:
    """The row, and the same values under the documents' names (CON-91)."""
    named = {alias: row[key] for alias, key in ALIASES.items() if key in row}
    return row | named
