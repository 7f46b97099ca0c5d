"""Options of the run's folder, checkpoints and console."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lumina.config.sections.section import Section


class RunSection(Section):
    """Where a run lives and what it leaves behind."""

    run_dir: str | None = Field(
        None, description="folder of the run; default: runs/PRESET-DATE-TIME"
    )
    experiment_name: str | None = Field(
        None, description="puts the run in runs/NAME where no run_dir is given"
    )
    resume: str | None = Field(
        None, description="a run or checkpoint to go on from; or 'latest'"
    )
    auto_resume: bool = Field(
        False, description="go on from the run directory if it holds a checkpoint"
    )
    branch_from: str | None = Field(
        None,
        description="a run or checkpoint that a run of its own goes on from, with "
        "weights, optimizer and place in the data; the other stays as it is; at a "
        "constant rate or in the stable phase of wsd the branch decays, over "
        "decay_steps or to the end of --steps",
    )
    save_every_n_batches: int | None = Field(
        None,
        ge=0,
        description="steps between checkpoints; 0: only at the end; default: a tenth "
        "of the run, at least 100",
    )
    save_every_n_hours: float | None = Field(
        None, gt=0, description="hours between checkpoints, beside those by steps"
    )
    backup_dir: str | None = Field(
        None, description="a second place, such as another disk, for copies: DIR/RUN"
    )
    backup_every_n_hours: float = Field(
        6.0, ge=0, description="hours between copies to backup_dir; 0: every checkpoint"
    )
    best_metric: str = Field(
        "eval_loss",
        description="what an evaluation reports and best checkpoint and early stopping "
        "go by, such as eval_perplexity or a source's loss",
    )
    best_is: Literal["lowest", "highest"] | None = Field(
        None,
        description="whether best_metric is better when it is lower or higher; "
        "default: highest for accuracies, exact shares and scores, lowest for all "
        "others",
    )
    save_total_limit: int = Field(
        3, ge=1, description="regular checkpoints kept (best and last always are)"
    )
    report_samples: int = Field(
        3, ge=0, description="held-out texts continued in the run's report; 0: none"
    )
    sample_every_n_batches: int = Field(
        0,
        ge=0,
        description="steps between samples of text for the report, which shows how "
        "they change; 0: only at the end",
    )
    log_every_n_batches: int = Field(
        10, ge=1, description="steps between console lines"
    )
