"""The rules of the configuration, a file for each subject and a line for each below."""

from __future__ import annotations

from lumina.config.rules import (
    adaptive,
    answering,
    batch_search,
    data,
    devices,
    embedding,
    experience,
    hrm,
    loading,
    logging,
    loss,
    memory_ladder,
    metrics,
    mixture,
    mod,
    moe,
    mor,
    named_expert,
    parts,
    precision,
    preservation,
    resuming,
    run,
    saving,
    shape,
    stages,
    tasks,
    tracking,
    training,
    transfer,
)
from lumina.config.rules.rule import Rule

ALWAYS: tuple[Rule, ...] = (run.RULE, resuming.RULE)
"""Rules that hold even for options that are laid over those of a run to resume."""

RULES: tuple[Rule, ...] = (
    *ALWAYS,
    shape.RULE,
    embedding.RULE,
    moe.RULE,
    hrm.RULE,
    mod.RULE,
    mor.RULE,
    parts.RULE,
    data.RULE,
    loading.RULE,
    loss.RULE,
    tasks.RULE,
    mixture.RULE,
    stages.RULE,
    preservation.RULE,
    named_expert.RULE,
    precision.RULE,
    devices.RULE,
    training.RULE,
    transfer.RULE,
    batch_search.RULE,
    experience.RULE,
    memory_ladder.RULE,
    saving.RULE,
    answering.RULE,
    adaptive.RULE,
    metrics.RULE,
    logging.RULE,
    tracking.RULE,
)
"""Every rule, in the order in which refusals and advice appear."""
