"""Hierarchical reasoning: which options do not go together, and which do nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina.config.embedding import EMBEDDING_OPTIONS
from lumina.config.leaves import field
from lumina.config.refusing import refuse

if TYPE_CHECKING:
    from lumina.config.config import Config

# What a reasoner has not; set to anything else, it would do nothing.
_NOT_IN_A_REASONER = (
    "use_moe", "use_mod", "use_mor", "dropout", "window_size", "rope_scaling",
    "qk_norm", "attention_bias", "mla_kv_rank", *EMBEDDING_OPTIONS,
)  # fmt: skip
_NOT_WITH_PUZZLES = (
    "tie_embeddings", "tokenizer", "tokenizer_vocab_size",
)  # fmt: skip
_REASONER_ONLY = (
    "hrm_mode",
    "hrm_variant", "h_layers", "l_layers", "h_cycles", "l_cycles", "expansion",
    "halt_max_steps", "halt_exploration", "puzzle_loss", "puzzle",
    "puzzle_augmentations", "puzzle_votes", "puzzle_lr", "puzzle_weight_decay",
)  # fmt: skip


def check_reasoner(config: Config) -> None:
    """Refuse what a reasoner has not, and votes without voters.

    Raises:
        LuminaError: E002.
    """
    if not config.hrm.use_hrm:
        return
    puzzles = config.hrm.hrm_mode == "puzzle"
    for leaf in _NOT_IN_A_REASONER + (_NOT_WITH_PUZZLES if puzzles else ()):
        value = config.get(leaf)
        if value != field(leaf).default:
            kind = "model that solves puzzles" if puzzles else "reasoner"
            more = ", or use --hrm-mode language_model" if puzzles else ""
            refuse(
                f"{leaf} {value} does not go with use_hrm: a {kind} has no such thing",
                f"leave {leaf} out, or use_hrm"
                + (more if leaf in _NOT_WITH_PUZZLES else ""),
            )
    _check_arc(config)


def _check_arc(config: Config) -> None:
    hrm = config.hrm
    if hrm.puzzle == "arc" and hrm.puzzle_votes > hrm.puzzle_augmentations + 1:
        refuse(
            f"puzzle_votes {hrm.puzzle_votes} is more than the forms of a task: it and "
            f"its puzzle_augmentations {hrm.puzzle_augmentations}",
            f"use at most {hrm.puzzle_augmentations + 1}",
        )


def idle_reasoner(config: Config) -> dict[str, str]:
    """Options without effect, and why."""
    hrm = config.hrm
    if not hrm.use_hrm:
        return dict.fromkeys(_REASONER_ONLY, "use_hrm is off")
    other = ("num_layers", "intermediate_size")
    idle = dict.fromkeys(other, "use_hrm has h_layers, l_layers and expansion")
    idle["init_std"] = "a reasoner's weights begin as wide as their inputs ask"
    if hrm.halt_max_steps == 1:
        idle["halt_exploration"] = "halt_max_steps 1 leaves nothing to explore"
    if hrm.hrm_mode == "language_model":
        only = [leaf for leaf in _REASONER_ONLY if leaf.startswith("puzzle")]
        idle |= dict.fromkeys(only, "hrm_mode language_model has no puzzles")
    elif hrm.puzzle != "arc":
        many = ("puzzle_augmentations", "puzzle_votes")
        idle |= dict.fromkeys(many, "puzzle is sudoku, one form each")
    if hrm.hrm_variant == "trm":
        idle["h_layers"] = "hrm_variant trm has one module, of l_layers"
    return idle
