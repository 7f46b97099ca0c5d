"""Every key of metrics.jsonl is described once, and docs/metrics.md says the same."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path

import pytest

import lumina
from lumina.observe.metric_table import ALIASES, METRICS, described
from lumina.train.aliases import with_aliases

ROOT = Path(__file__).parents[2]

SPEC = [
    "train_loss",
    "eval_loss",
    "raw_loss",
    "perplexity",
    "token_accuracy",
    "sequence_accuracy",
    "learning_rate",
    "effective_learning_rate",
    "gradient_norm",
    "gradient_variance",
    "clipped_gradients",
    "tokens_per_second",
    "samples_per_second",
    "steps_per_second",
    "mfu",
    "hfu",
    "epoch_time",
    "step_time",
    "memory_allocated",
    "memory_reserved",
    "memory_peak",
    "memory_utilization",
    "model_memory",
    "optimizer_memory",
    "activation_memory",
    "gradient_memory",
    "memory_fragmentation",
    "oom_risk_score",
    "expert_usage",
    "expert_load_variance",
    "expert_balance_score",
    "routing_entropy",
    "avg_experts_per_token",
    "routing_confidence",
    "auxiliary_loss",
    "dropped_tokens",
    "capacity_utilization",
    "expert_collapse_count",
    "expert_imbalance_ratio",
    "selected_token_ratio",
    "avg_routing_score",
    "routing_threshold",
    "compute_savings",
    "flops_reduction",
    "selected_token_loss",
    "skipped_token_loss",
    "routing_accuracy",
]


def test_no_key_and_no_other_name_stands_twice():
    names = Counter([metric.key for metric in METRICS] + list(ALIASES))
    assert [name for name, count in names.items() if count > 1] == []


def test_the_documentation_has_the_tables():
    place = ROOT / "tools" / "metrics.py"
    spec = importlib.util.spec_from_file_location("tools_metrics", place)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.PAGE.read_text() == tool.page(), "run python tools/metrics.py --write"
    assert all(f"`{name}`" in tool.page() for name in SPEC)


@pytest.mark.parametrize(
    "options",
    [
        {"use_moe": True, "num_experts": 4, "moe_top_k": 2, "steps": 2, "epochs": None},
        {"use_mod": True, "steps": 1, "num_layers": 4},
        {"use_mor": True, "steps": 1, "num_layers": 4},
    ],
    ids=["experts", "depths", "recursions"],
)
def test_every_key_of_a_run_is_described(tiny_config, options):
    rows = []
    config = tiny_config.replace(log_every_n_batches=1, warmup_steps=0, **options)
    lumina.Trainer(config, on_step=lambda _, row: rows.append(row)).train()
    for row in rows:
        assert [key for key in row if described(key) is None] == []
    if "use_moe" in options:
        shown = with_aliases(rows[-1])
        depths = SPEC.index("selected_token_ratio")
        assert set(SPEC[:depths]) - set(shown) == {"epoch_time"}
