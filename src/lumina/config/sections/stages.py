"""Options of how base text and fine-tuning data take their turns, and of phases."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lumina.config.sections.section import Section


class StagesSection(Section):
    """Which data is trained on when, and with which settings."""

    training_mode: (
        Literal["base_only", "finetuning_only", "hybrid", "interleaved"] | None
    ) = Field(
        None,
        description="base_only and finetuning_only train on one of the two sources, "
        "hybrid on the first and then on the second, interleaved on both at once; each "
        "brings recommended values for what is not set",
    )
    base_training_paths: tuple[str, ...] = Field(
        (), description="files or folders of base text: the source named base"
    )
    base_eval_paths: tuple[str, ...] = Field(
        (), description="held-out base text; default: split off"
    )
    finetuning_paths: tuple[str, ...] = Field(
        (), description="files of conversations: the source named finetuning"
    )
    finetuning_eval_paths: tuple[str, ...] = Field(
        (), description="held-out conversations; default: split off"
    )
    phases: tuple[str, ...] = Field(
        (),
        description="phases of the run, one after the other, each 'NAME: OPTION=VALUE "
        "...'; in a file also a list of mappings with a name; what a phase does not "
        "set is as in the whole run",
    )
    base_num_epochs: float | None = Field(
        None, gt=0, description="passes of the base phase of hybrid; default: 1"
    )
    base_learning_rate: float | None = Field(
        None, gt=0, le=1, description="rate of the base phase of hybrid; default: 3e-4"
    )
    ft_num_epochs: float | None = Field(
        None, gt=0, description="passes of the second phase of hybrid; default: 3"
    )
    ft_learning_rate: float | None = Field(
        None,
        gt=0,
        le=1,
        description="rate of the second phase of hybrid; default: 1e-5",
    )
    phase_transition_warmup_steps: int | None = Field(
        None,
        ge=0,
        description="warm-up steps of the second phase of hybrid; default: 500, at "
        "most a tenth of the phase",
    )
    base_finetuning_ratio: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of base rows where both sources are mixed; default: 0.7",
    )
