"""Options of the run's folder, checkpoints and console."""

from __future__ import annotations

from pydantic import Field

from lumina.config.sections.section import Section


class RunSection(Section):
    """Where a run lives and what it leaves behind."""

    run_dir: str | None = Field(None, description="default: runs/PRESET-DATE-TIME")
    experiment_name: str | None = Field(
        None, description="puts the run in runs/NAME where no run_dir is given"
    )
    resume: str | None = Field(
        None, description="a run or checkpoint to go on from; or 'latest'"
    )
    auto_resume: bool = Field(
        False, description="go on from the run directory if it holds a checkpoint"
    )
    save_every_n_batches: int | None = Field(
        None,
        ge=0,
        description="steps between checkpoints; 0: only at the end; default: a tenth "
        "of the run, at least 100",
    )
    save_total_limit: int = Field(
        3, ge=1, description="regular checkpoints kept (best and last always are)"
    )
    report_samples: int = Field(
        3, ge=0, description="held-out texts continued in the run's report; 0: none"
    )
    log_every_n_batches: int = Field(
        10, ge=1, description="steps between console lines"
    )
