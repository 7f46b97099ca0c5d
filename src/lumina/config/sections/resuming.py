"""Options that change a run as it is resumed."""

from __future__ import annotations

from pydantic import Field

from lumina.config.sections.section import Section


class ResumingSection(Section):
    """What a resumed run does differently."""

    reset_optimizer: bool = Field(
        False,
        description=(
            "on resume: reset the optimizer's states; the weights and the schedule stay"
        ),
    )
    reset_scheduler: bool = Field(
        False,
        description=(
            "on resume: restart the schedule, so that the learning rate warms up and "
            "falls again over the steps that are left"
        ),
    )
    reset_metrics: bool = Field(
        False,
        description=(
            "on resume: reset the best evaluation, the patience of early stopping and "
            "the number of skipped steps; rows on disk stay"
        ),
    )
    override_learning_rate: float | None = Field(
        None, gt=0, description="on resume: learning_rate from here on"
    )
    override_batch_size: int | None = Field(
        None, ge=1, description="on resume: batch_size from here on"
    )
    modify_config: tuple[str, ...] = Field(
        (),
        description="on resume: other values of the run's options, as KEY=VALUE",
    )
