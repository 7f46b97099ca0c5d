"""Options of a mixture of several sources of text."""

from __future__ import annotations

from typing import Literal

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
    curriculum: Literal["length", "rarity", "variety", "quality", "loss"] | None = (
        Field(
            None,
            description="take the rows of the first epochs from easy to hard: by the "
            "length of their documents, by how rare their tokens are in the data, by "
            "how many different tokens they have, by quality_field, or by the loss of "
            "score_model; default: shuffled",
        )
    )
    curriculum_epochs: int = Field(
        1, ge=1, description="epochs of each source that go from easy to hard"
    )
    curriculum_spread: float = Field(
        0.2,
        ge=0,
        le=1,
        description="how far a curriculum mixes the rows, as a share of all of them; "
        "0: strictly sorted",
    )
    score_model: str | None = Field(
        None,
        description="a run, checkpoint or exported folder whose loss on each row "
        "curriculum loss and sample_by loss read; every row is scored once and kept",
    )
    sample_by: Literal["length", "rarity", "variety", "quality", "loss"] | None = Field(
        None,
        description=(
            "draw rows by a score, one of those of curriculum; an epoch has as many "
            "rows as before, some of them several times"
        ),
    )
    sample_power: float = Field(
        1.0,
        description="rows weigh as score^power; a negative power prefers low scores",
    )
    source_schedule: tuple[str, ...] = Field(
        (),
        description="shares that change at given steps, each STEP:WEIGHTS, such as "
        "0:base=0.8,chat=0.2 1000:base=0.6,chat=0.4; of two sources also the share of "
        "the first alone, 0:0.8 1000:0.6",
    )
