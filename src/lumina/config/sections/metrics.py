"""Options of what is measured while a run trains."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lumina.config.sections.section import Section


class MetricsSection(Section):
    """What is measured beside loss, rates and memory, and how often."""

    metrics: Literal["basic", "full"] = Field(
        "full",
        description="basic: losses, rates and memory; full: also accuracy, log Z, the "
        "variance of gradients, gradients and updates by group, the largest attention "
        "logit, and how busy processors, memory and disk are",
    )
    health_checks: bool = Field(
        True,
        description=(
            "watch losses, gradients, routing, memory and speed for trouble; findings "
            "are written as events, and every row of the metrics has a health score of "
            "at most 100"
        ),
    )
    gradient_norm_limit: float = Field(
        100.0,
        gt=0,
        description="a gradient norm before clipping above it is one that explodes, "
        "whatever is usual in the run; --adaptive acts on that",
    )
    step_times_every: int = Field(
        0,
        ge=0,
        description=(
            "every N steps, time forward, backward and optimizer of a step separately; "
            "0: never"
        ),
    )
    weight_changes_every: int = Field(
        0,
        ge=0,
        description=(
            "every N steps, measure gradient norm, weight norm and the ratio of update "
            "to weight of each group of tensors and each layer; 0: never. A copy of "
            "the weights is held while such a step updates them"
        ),
    )
    attention_stats_every: int = Field(
        0,
        ge=0,
        description=(
            "every N steps, measure what the heads of attention look at, on two rows; "
            "0: never"
        ),
    )
    attention_logits_every: int | None = Field(
        None,
        ge=0,
        description=(
            "every N steps, measure the largest attention logit of a row; 0: never; "
            "default: with --metrics full a fiftieth of the run, from 10 to 100. With "
            "--qk-clip every step has it"
        ),
    )
    layer_profile_every: int = Field(
        0,
        ge=0,
        description=(
            "every N steps, measure time, memory and operations of each layer; 0: never"
        ),
    )
    log_expert_usage: bool = Field(
        False,
        description="an event with the tokens and the mean probability of every expert",
    )
    expert_usage_frequency: int = Field(
        100, ge=1, description="every N steps, write the event of log_expert_usage"
    )
