"""Options of registered parts."""

from __future__ import annotations

from pydantic import Field

from lumina.config.sections.section import Section


class PartsSection(Section):
    """Parts of the model that are your own, or another's, registered by a plug-in."""

    describes_model = True

    plugins: tuple[str, ...] = Field(
        (),
        description="your own .py files or modules that register parts; run as code, "
        "so they are never taken from a checkpoint",
    )
    block_type: tuple[str, ...] = Field(
        (), description="registered blocks, repeated over the layers; or standard"
    )
    attention_type: tuple[str, ...] = Field(
        (), description="registered attentions, repeated over the layers; or standard"
    )
    feedforward_type: tuple[str, ...] = Field(
        (),
        description="registered feed-forwards, repeated over the layers; or standard",
    )
    backbone: str | None = Field(
        None, description="a registered backbone in place of the transformer"
    )
    objective: str | None = Field(
        None, description="a registered objective in place of next-token cross entropy"
    )
    part_options: tuple[str, ...] = Field(
        (), description="options of registered parts, each NAME.OPTION=VALUE"
    )
