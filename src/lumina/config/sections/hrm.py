"""Options of hierarchical reasoning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lumina.config.sections.section import Section


class HrmSection(Section):
    """Hierarchical reasoning with adaptive computation time, on puzzles or text."""

    describes_model = True

    use_hrm: bool = Field(
        False, description="a recurrent reasoner in place of the transformer"
    )
    hrm_mode: Literal["puzzle", "language_model"] = Field(
        "puzzle", description="what it reasons on: whole puzzles, or text, causally"
    )
    hrm_variant: Literal["hrm", "trm"] = Field(
        "hrm", description="two modules, or one for both states (trm)"
    )
    h_layers: int = Field(4, ge=1, description="high-level blocks (hrm only)")
    l_layers: int = Field(4, ge=1, description="low-level blocks")
    h_cycles: int = Field(2, ge=1, description="high-level updates of a segment")
    l_cycles: int = Field(2, ge=1, description="low-level updates before each of them")
    expansion: float = Field(
        4.0,
        gt=0,
        description="SwiGLU width as a multiple of 2/3 of the hidden size (use_hrm)",
    )
    halt_max_steps: int = Field(
        16, ge=1, description="most segments for a puzzle or a token"
    )
    halt_exploration: float = Field(
        0.1,
        ge=0,
        le=1,
        description=(
            "share of steps or tokens for which a minimum number of segments is drawn "
            "at random"
        ),
    )
    puzzle_loss: Literal["stablemax", "softmax"] = Field(
        "stablemax", description="cross entropy: stablemax in float64, or softmax"
    )
    puzzle: Literal["sudoku", "arc"] = Field(
        "sudoku", description="what the puzzles are: Sudokus, or ARC tasks in JSON"
    )
    puzzle_augmentations: int = Field(
        1000, ge=0, description="turned and recoloured forms of an ARC task"
    )
    puzzle_votes: int = Field(
        1,
        ge=1,
        description="augmented forms of an ARC test whose answers vote for its two "
        "attempts",
    )
    puzzle_lr: float = Field(
        0.01, ge=0, le=1, description="peak rate of sign descent on puzzles' vectors"
    )
    puzzle_weight_decay: float = Field(
        0.1,
        ge=0,
        description="decoupled weight decay of the vectors of the puzzles in a step",
    )
