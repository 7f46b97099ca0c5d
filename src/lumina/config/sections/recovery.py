"""Options of a run that recovers by itself, without another process."""

from __future__ import annotations

from pydantic import Field

from lumina.config.sections.section import Section


class RecoverySection(Section):
    """What keeps a run whole, and what it goes back to when it is not."""

    robust_clip: bool = Field(
        False,
        description="clip gradient norms that stand out from the median of the recent "
        "ones; the same as robust_clip among gradient_steps",
    )
