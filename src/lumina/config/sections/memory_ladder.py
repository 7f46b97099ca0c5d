"""Options of what is done when memory runs out."""

from __future__ import annotations

from pydantic import Field

from lumina.config.sections.section import Section


class MemoryLadderSection(Section):
    """A run that goes on when its memory runs out."""

    memory_recovery: bool = Field(
        True,
        description="when a step has no room, do it again with less memory: empty the "
        "cache, then halve batch_size (the rows of a step stay), then compute "
        "activations again; what was needed is remembered for the next run of the same "
        "model on the same machine; without it the run ends",
    )
    forget_memory_limits: bool = Field(
        False,
        description="begin without what earlier runs of the same model on this machine "
        "found out about memory, and forget it",
    )
    clear_cache_every_n_steps: int = Field(
        0,
        ge=0,
        description=(
            "every N steps, return cached memory that is not in use to the system; 0: "
            "never"
        ),
    )
