"""Hierarchical reasoning: which options do not go together, and which do nothing."""

from __future__ import annotations

from lumina.config.rules.refusing import refuse
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings

_ONLY_OF_TEXT = ("tokenizer", "tokenizer_vocab_size", "ascii_only", "eval_split",
                 "watch_vocabulary")  # fmt: skip
"""Options that a model of puzzles would not read."""

_REASONER_ONLY = (
    "hrm_mode",
    "hrm_variant", "h_layers", "l_layers", "h_cycles", "l_cycles", "expansion",
    "halt_max_steps", "halt_exploration", "puzzle_loss", "puzzle",
    "puzzle_augmentations", "puzzle_votes", "puzzle_lr", "puzzle_weight_decay",
)  # fmt: skip


def check(settings: Settings) -> None:
    """Refuse a tokenizer of puzzles, and more votes than forms of a puzzle.

    Raises:
        LuminaError: E002.
    """
    if not settings.hrm.use_hrm:
        return
    puzzles = settings.hrm.hrm_mode == "puzzle"
    for leaf in _ONLY_OF_TEXT if puzzles else ():
        if not settings.is_default(leaf):
            refuse(
                f"{leaf} {settings.get(leaf)} does not go together with use_hrm: a "
                "model that solves puzzles has no such thing",
                f"leave {leaf} out, or use_hrm, or use --hrm-mode language_model",
            )
    _check_arc(settings)


def _check_arc(settings: Settings) -> None:
    hrm = settings.hrm
    if hrm.puzzle == "arc" and hrm.puzzle_votes > hrm.puzzle_augmentations + 1:
        refuse(
            f"puzzle_votes {hrm.puzzle_votes} is more than the forms of a task: it and "
            f"its puzzle_augmentations {hrm.puzzle_augmentations}",
            f"use at most {hrm.puzzle_augmentations + 1}",
        )


def without_effect(settings: Settings) -> dict[str, str]:
    """Options without effect, and why."""
    hrm = settings.hrm
    if not hrm.use_hrm:
        return dict.fromkeys(_REASONER_ONLY, "use_hrm is off")
    other = ("num_layers", "intermediate_size")
    unused = dict.fromkeys(other, "use_hrm has h_layers, l_layers and expansion")
    unused["init_std"] = "a reasoner's weights begin as wide as their inputs ask"
    if hrm.halt_max_steps == 1:
        unused["halt_exploration"] = "halt_max_steps 1 leaves nothing to explore"
    if hrm.hrm_mode == "language_model":
        only = [leaf for leaf in _REASONER_ONLY if leaf.startswith("puzzle")]
        unused |= dict.fromkeys(only, "hrm_mode language_model has no puzzles")
    elif hrm.puzzle != "arc":
        many = ("puzzle_augmentations", "puzzle_votes")
        unused |= dict.fromkeys(many, "puzzle is sudoku, one form each")
    if hrm.hrm_variant == "trm":
        unused["h_layers"] = "hrm_variant trm has one module, of l_layers"
    return unused


RULE = Rule(check=check, without_effect=without_effect)
