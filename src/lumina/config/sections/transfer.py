"""Options of rates that carry over to other sizes of a model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lumina.config.sections.section import Section


class TransferSection(Section):
    """A learning rate that was found on a smaller model."""

    lr_transfer: Literal["mup", "completep"] | None = Field(
        None,
        description="the learning rate is that of a smaller model: mup carries it over "
        "width, completep over width and depth, with first values and rates by tensor",
    )
    base_width: int | None = Field(
        None, ge=1, description="hidden_size of the model that the rate was found on"
    )
    base_depth: int | None = Field(
        None,
        ge=1,
        description="num_layers of the model that the rate was found on (completep); "
        "default: as many as this one has",
    )
