"""Options of the orchestrator, which changes a run by itself where it has to."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lumina.config.sections.section import Section


class AdaptiveSection(Section):
    """Whether a run heals and tunes itself, and within which limits."""

    adaptive: Literal["off", "shadow", "on"] = Field(
        "off",
        description="off: nothing is decided; shadow: decisions about anomalies are "
        "written to events.jsonl and change nothing; on: they are carried out too",
    )
