"""Options of a run that recovers by itself, without another process."""

from __future__ import annotations

from pydantic import Field

from lumina.config.sections.section import Section


class RecoverySection(Section):
    """What keeps a run whole, and what it goes back to when it is not."""

    robust_clip: bool | None = Field(
        None,
        description="clip gradient norms that stand out from the median of the recent "
        "ones, as robust_clip among gradient_steps does; by itself with adaptive on",
    )
    snapshot_every: int | None = Field(
        None,
        ge=0,
        description=(
            "every N steps, keep a snapshot of the whole run in host memory, to which "
            "a rollback can return; 0: never. On by itself with adaptive on"
        ),
    )
    snapshots_kept: int = Field(
        3,
        ge=2,
        description=(
            "snapshots that are held at a time: the newest that is known to be good, a "
            "candidate to follow it, and the newest ones"
        ),
    )
    known_good_after: int | None = Field(
        None,
        ge=1,
        description="steps without an alarm after which a snapshot or a checkpoint is "
        "known to be good; by itself 100, and fewer in a run of less than 1,000 steps",
    )
    repeat_check_every: int = Field(
        0,
        ge=0,
        description=(
            "every N steps, check for silent corruption: the gradients are computed "
            "twice and must agree bit for bit; needs deterministic. 0: never"
        ),
    )
    preflight: bool = Field(
        False,
        description="test the device before the run: matrix products, memory, and a "
        "sum over the processes",
    )
