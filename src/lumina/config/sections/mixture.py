"""Options of a mixture of several sources of text."""

from __future__ import annotations

from pydantic import Field

from lumina.config.sections.section import Section


class MixtureSection(Section):
    """Which sources there are, and which share of the rows each of them gets."""

    sources: tuple[str, ...] = Field(
        (),
        description="sources of text in place of train_data, each NAME=PATH; a name "
        "may be given several times",
    )
    source_eval_data: tuple[str, ...] = Field(
        (), description="held-out files of sources, NAME=PATH; default: split off"
    )
    source_weights: tuple[str, ...] = Field(
        (),
        description="the share of the rows that each source gets, such as "
        "base=0.7,chat=0.3; default: in proportion to their rows",
    )
    source_temperature: float | None = Field(
        None,
        gt=0,
        description="shares in proportion to rows^(1/temperature): 1 is proportional, "
        "a larger number makes the sources more equal; default: 1",
    )
    source_schedule: tuple[str, ...] = Field(
        (),
        description="shares that change at given steps, each STEP:WEIGHTS, such as "
        "0:base=0.8,chat=0.2 1000:base=0.6,chat=0.4; of two sources also the share of "
        "the first alone, 0:0.8 1000:0.6",
    )
