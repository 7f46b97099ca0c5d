"""Options of what is measured while a run trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from lumina.assemble.program import Program
from option_effects import shows
from tiny_runs import EXPERTS, Run, Runs, same


@shows("metrics")
def kinds(runs: Runs) -> None:
    basic, full = runs.both("metrics", "basic", "full", log_every_n_batches=2)
    assert basic.column("loss") == full.column("loss")
    assert not basic.column("token_accuracy") and not basic.column("cpu_utilization")
    assert len(full.column("token_accuracy")) == 3
    for name in ("gradient_variance", "cpu_utilization", "disk_free_bytes"):
        assert [row["step"] for row in full.rows if name in row] == [2], name


def steps(run: Run, key: str) -> list[int]:
    return [row["step"] for row in run.rows if key in row]


@pytest.mark.covers("MON-09: enable_profiling")
@shows(
    "step_times_every",
    "weight_changes_every",
    "attention_stats_every",
    "attention_logits_every",
    "layer_profile_every",
)
def looks(runs: Runs) -> None:
    """Each in its steps and in no others; none of them changes what is computed."""
    keys = {
        "step_times_every": "forward_time",
        "weight_changes_every": "group.norm.update_ratio",
        "attention_stats_every": "average_attention_entropy",
        "attention_logits_every": "largest_attention_logit",
        "layer_profile_every": "layers.bottleneck_score",
    }
    base = {"steps": 6, "dropout": 0.1, "max_grad_norm": 0.5, "grad_accum": 2}
    base |= {"batch_size": 2, "eval_fraction": 0.0}
    none = runs.train(**base)
    assert not any(steps(none, key) for key in keys.values())
    every = {leaf: at for at, leaf in enumerate(keys, 2)}
    some = runs.train(**base, **every)
    for leaf, key in keys.items():
        assert steps(some, key) == list(range(every[leaf], 7, every[leaf]))
    assert some.column("loss") == none.column("loss")
    found, plain = some.tensors, none.tensors
    assert all(same(found[name], plain[name]) for name in plain)
    profiled = runs.config(enable_profiling=True)
    assert profiled.metrics.layer_profile_every == 100
    runs.refused("E002", attention_stats_every=1, use_mod=True)
    runs.refused("E002", attention_logits_every=1, use_mod=True)


@pytest.mark.covers(
    "MON-11: --log-expert-usage",
    "MON-11: --expert-usage-frequency",
    "MON-11: average probability, token counts, total",
)
@shows("log_expert_usage", "expert_usage_frequency")
def usage(runs: Runs) -> None:
    def events(run: Run) -> list[dict]:
        return [event for event in run.events if event["kind"] == "expert_usage"]

    base = {"steps": 4, **EXPERTS}
    assert not events(runs.train(**base, expert_usage_frequency=2))
    assert not events(runs.train(**base, log_expert_usage=True))  # every 100 steps
    run = runs.train(**base, log_expert_usage=True, expert_usage_frequency=2)
    assert [event["step"] for event in events(run)] == [2, 4]
    for event in events(run):
        data, row = event["data"], run.rows[event["step"] - 1]
        for layer in range(len(data["layers"])):
            tokens = data["total_tokens"][layer]
            counts = data["token_counts"][layer]
            assert sum(counts) == 2 * tokens  # two experts for each
            load = [count / sum(counts) for count in counts]
            assert load == pytest.approx(row["moe.load"][layer], abs=1e-5)
            assert sum(data["average_probability"][layer]) == pytest.approx(1, abs=1e-4)


@shows("health_checks")
def health(runs: Runs) -> None:
    """Gradients that are not finite are told of, and again when they go on."""
    base = {"steps": 8, "eval_fraction": 0.0}

    @contextmanager
    def broken(program: Program, _: Any) -> Iterator[None]:
        """From the first step on no gradient is finite."""
        with torch.no_grad():
            program.optimizer.slots[0].parameter.fill_(torch.nan)
        yield

    def alarms(run: Run) -> list[dict]:
        found = [event for event in run.events if event["kind"] == "training_health"]
        return [event for event in found if "check" in event["data"]]

    watched = runs.train(broken, health_checks=True, **base)
    found = [(x["data"]["check"], x["severity"], x["step"]) for x in alarms(watched)]
    assert found == [("nonfinite", "warning", 1), ("nonfinite", "error", 3)]
    assert "not finite in 3 steps in a row" in watched.printed
    scores = watched.column("training_health_score")
    assert scores[0] == scores[-1] == 70
    not_watched = runs.train(broken, health_checks=False, **base)
    assert not alarms(not_watched) and not not_watched.column("training_health_score")


@shows("gradient_norm_limit")
def limit(runs: Runs) -> None:
    """Norms above the limit are told of, and acted upon, from the third step on."""

    def found(run: Run) -> list[tuple[int, str]]:
        return [
            (
                event["step"],
                str(event["data"].get("check", event["data"].get("action"))),
            )
            for event in run.events
            if event["kind"] in ("training_health", "decision")
        ]

    base = {"steps": 4, "adaptive": "shadow", "eval_fraction": 0.0}
    usual, low = runs.both("gradient_norm_limit", 100.0, 1e-3, **base)
    assert not any("gradients" in what for _, what in found(usual))
    assert (3, "exploding_gradients") in found(low) and (3, "nothing") in found(low)
    runs.refused("E005", gradient_norm_limit=0.0)
