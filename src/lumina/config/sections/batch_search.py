"""Options of the search for the largest batch that fits."""

from __future__ import annotations

from pydantic import Field

from lumina.config.sections.section import Section


class BatchSearchSection(Section):
    """A batch size that is measured before the run."""

    auto_batch_size: bool = Field(
        False,
        description="measure, by real steps in a process of its own, the largest "
        "batch_size that fits, and keep the sequences of a step by accumulation; "
        "remembered for the next run of the same model on the same device",
    )
    target_memory_usage: float = Field(
        0.85,
        gt=0,
        le=1,
        description="share of the device's memory that auto_batch_size may fill; of a "
        "CPU the resident memory of the process",
    )
