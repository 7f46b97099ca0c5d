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
    phase_optimizer: Literal["reset", "keep"] = Field(
        "reset",
        description=(
            "what a later phase does with the optimizer's states, the average of the "
            "weights and the values set by controls: reset them, or keep them"
        ),
    )
    context_schedule: tuple[str, ...] = Field(
        (),
        description=(
            "rows that grow longer during the run, each STEP:LENGTH or EPOCHe:LENGTH, "
            "such as 0:512 1000:1024 or 0e:16384 5e:32768; the number of tokens in a "
            "step and the schedule of the learning rate stay the same"
        ),
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
    phase_transition: Literal["length", "convergence"] = Field(
        "length",
        description="what ends a phase that another follows: its length, or before it "
        "that the training loss no longer falls",
    )
    convergence_window: int = Field(
        500, ge=2, description="steps whose mean losses phase_transition compares"
    )
    convergence_threshold: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="a phase has converged when its loss falls by less than this share "
        "of it from one window to the next",
    )
    interleaving_strategy: Literal["fixed", "scheduled", "adaptive"] | None = Field(
        None,
        description="shares of interleaved: fixed, by source_schedule, or adaptive, "
        "which follows the perplexity of the base text and the accuracy on the other; "
        "default: scheduled where there is a source_schedule, else fixed",
    )
    min_base_ratio: float = Field(
        0.3,
        ge=0,
        le=1,
        description="interleaving_strategy adaptive: the smallest share of base rows",
    )
    max_base_ratio: float = Field(
        0.8,
        ge=0,
        le=1,
        description="interleaving_strategy adaptive: the largest share of base rows",
    )
    adjustment_window: int = Field(
        500,
        ge=1,
        description="interleaving_strategy adaptive: steps between changes of the "
        "shares",
    )
    base_perplexity_threshold: float = Field(
        15.0,
        gt=1,
        description="adaptive takes more base rows while the perplexity of the base "
        "text is above it",
    )
    task_accuracy_threshold: float = Field(
        0.7,
        gt=0,
        le=1,
        description="adaptive takes fewer base rows while the share of right tokens of "
        "the other source is below it",
    )
    preserve_base_knowledge: bool = Field(
        False,
        description="keep the model near the one that the run, or its phase, began "
        "with, as preservation_method says",
    )
    preservation_method: Literal["weights", "outputs"] = Field(
        "weights",
        description="what preserve_base_knowledge keeps near: weights pulls trained "
        "matrices back (decoupled L2-SP); outputs adds the divergence from the base "
        "model's scores on the rows of the first source (distillation)",
    )
    preservation_strength: float = Field(
        1.0,
        gt=0,
        description="strength of preserve_base_knowledge; weights: a weight that the "
        "loss leaves alone keeps exp(-strength) of its distance over all steps at the "
        "peak rate; outputs: what the divergence weighs beside a token's loss",
    )
    preservation_temperature: float = Field(
        2.0,
        gt=0,
        description="temperature at which preservation_method outputs compares the two "
        "models' scores; the divergence is multiplied by its square",
    )
    base_finetuning_ratio: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of base rows where both sources are mixed; default: 0.7",
    )
