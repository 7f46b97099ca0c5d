"""Options of what is measured while a run trains."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lumina.config.sections.section import Section


class MetricsSection(Section):
    """What is measured beside loss, rates and memory, and how often."""

    metrics: Literal["basic", "full"] = Field(
        "full",
        description="basic: losses, rates and memory; full: also accuracy, the "
        "variance of gradients, and how busy processors, memory and disk are",
    )
