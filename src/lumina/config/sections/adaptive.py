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
    adaptive_levels: tuple[int, ...] = Field(
        (1, 2, 3, 4),
        description="levels of actions that --adaptive may take: 1 nudges a setting, "
        "2 changes the training, 3 goes back, 4 ends the run",
    )
    adaptive_confidence_undo: float = Field(
        0.6, ge=0, le=1, description="least confidence for a change that can be undone"
    )
    adaptive_confidence_rollback: float = Field(
        0.8,
        ge=0,
        le=1,
        description=(
            "least confidence for a change that only a rollback to a checkpoint can "
            "undo"
        ),
    )
    adaptive_confidence_final: float = Field(
        0.9,
        ge=0,
        le=1,
        description=(
            "least confidence for a change that nothing can undo, and for a higher "
            "learning rate"
        ),
    )
    adaptive_cooldown_steps: int | None = Field(
        None,
        ge=1,
        description="steps after a change in which --adaptive makes no other; default: "
        "a twentieth of the run, from 5 to 100",
    )
    adaptive_cooldown_tokens: int = Field(
        0,
        ge=0,
        description="tokens that have to pass between two changes, besides the steps",
    )
    adaptive_rollbacks: int = Field(
        3, ge=0, description="how often --adaptive may roll a run back"
    )
    adaptive_branches: int = Field(
        0,
        ge=0,
        description=(
            "measure the effect of this many decisions of --adaptive on: the run goes "
            "on without the change, then returns to a snapshot and is changed there"
        ),
    )
    adaptive_without: tuple[str, ...] = Field(
        (), description="actions that --adaptive does not take, such as reset_moments"
    )
    health_check_interval: int = Field(
        100,
        ge=0,
        description=(
            "every N steps, write an event with the health, the phase and the "
            "decisions of an adaptive run; 0: never"
        ),
    )
