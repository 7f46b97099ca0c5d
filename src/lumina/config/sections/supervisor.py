"""Options of the process that starts a training again when it fails."""

from __future__ import annotations

from pydantic import Field

from lumina.config.sections.section import Section


class SupervisorSection(Section):
    """How a training is watched, and started again after a crash or a hang."""

    supervise: bool | None = Field(
        None,
        description="train in a process of its own, which is watched and, after a "
        "crash, a hang or the loss of a rank, started again from the newest whole "
        "checkpoint; default: where the run is planned to take more than an hour, no "
        "other launcher such as torchrun started it, and it is neither in a notebook "
        "nor in Python",
    )
    max_restarts: int = Field(
        3,
        ge=0,
        description="restarts in a row that may come no step further before the "
        "training is given up",
    )
    restart_delay: float = Field(
        5.0,
        ge=0,
        description="seconds before the first of those restarts; each further one "
        "waits twice as long, 5 minutes at most",
    )
    hang_timeout: float | None = Field(
        None,
        ge=0,
        description="seconds that a step may take without a sign of life before the "
        "process is reported as hung, with its stack; a supervised one is ended and "
        "started again after twice as long; 0: never; default: 20 times the usual "
        "step, at least 45. Under torchrun, a number given here ends a process that "
        "hangs after twice as long, so that torchrun starts all again",
    )
