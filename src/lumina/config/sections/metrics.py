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
        description="watch losses, gradients, routing, memory and speed for trouble; "
        "events tell of it, and every row has a score of 100 at best",
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
        description="steps from one whose forward, backward and optimizer are timed to "
        "the next; 0: none",
    )
    weight_changes_every: int = Field(
        0,
        ge=0,
        description="steps from one in which gradient norm, weight norm and ratio of "
        "update to weight are taken of each group of tensors and each layer to the "
        "next; 0: none. A copy of the weights is held while such a step updates them",
    )
    attention_stats_every: int = Field(
        0,
        ge=0,
        description="steps from one before which the heads of attention are judged on "
        "two rows to the next; 0: none",
    )
    attention_logits_every: int | None = Field(
        None,
        ge=0,
        description="steps from one before which the largest attention logit of a row "
        "is looked for to the next; 0: none; default: with --metrics full a fiftieth "
        "of the run, from 10 to 100. With --qk-clip every step has it",
    )
    layer_profile_every: int = Field(
        0,
        ge=0,
        description="steps from one in which time, memory and operations of each "
        "layer are measured to the next; 0: none",
    )
    log_expert_usage: bool = Field(
        False,
        description="an event with the tokens and the mean probability of every expert",
    )
    expert_usage_frequency: int = Field(
        100, ge=1, description="steps from one event of log_expert_usage to the next"
    )
