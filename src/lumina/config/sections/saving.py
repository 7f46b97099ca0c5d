"""Options of what a checkpoint holds, and of which checkpoints stay."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lumina.config.sections.section import Section


class SavingSection(Section):
    """What a checkpoint holds, and which checkpoints stay."""

    track_best_model: bool = Field(
        True, description="save a checkpoint at each best evaluation, and name it BEST"
    )
    keep_best_only: bool = Field(
        False,
        description="keep the best checkpoint and the newest, and no others",
    )
    checkpoint_pruning: Literal["newest", "spread"] = Field(
        "newest",
        description=(
            "which save_total_limit regular checkpoints are kept: the newest, or some "
            "of all ages, fewer the older they are"
        ),
    )
    save_optimizer_states: bool = Field(
        True,
        description=(
            "save the states of the optimizer; without them checkpoints are smaller, "
            "and a resume resets the optimizer"
        ),
    )
    save_scheduler_states: bool = Field(
        True,
        description="save what controls made of the learning rate; without it a resume "
        "follows the planned schedule",
    )
    save_training_metrics: bool = Field(
        True,
        description=(
            "save the best evaluation, the patience of early stopping and the number "
            "of skipped steps; without them a resume counts from zero"
        ),
    )
    save_adaptive_state: bool = Field(
        True,
        description=(
            "save what the rules that watch the run have seen; without it they begin "
            "from nothing after a resume"
        ),
    )
