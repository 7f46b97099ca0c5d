"""Recomputing activations in the backward pass."""

from __future__ import annotations

from typing import Any

from lumina.features.feature import Exclusion, Feature
from lumina.features.table import register
from lumina.features.trial import Trial

EXCEPT = "except_attention"

_RECOMPUTE = "lumina.assemble.checkpointing:recompute"

_AGAIN = ("lumina.assemble.checkpointing:to_compute_again",)
"""What passes of modules alone do not show: chunks and tiles repeat them, too."""


def _nothing_again(plan: Any) -> str | None:
    """Why a budget changes nothing, where all fits into it as it is."""
    if set(plan.block_checkpointing) <= {"none"}:
        return "the activations are within the budget, and no block is computed again"
    return None


_OTHER_BLOCKS = (
    Exclusion("mixture_of_recursions", "tokens pass its blocks more than once"),
    Exclusion("hierarchical_reasoning", "its blocks are passed in cycles"),
    Exclusion("registered_backbone", "what passes its blocks is not known"),
)
"""Models whose blocks are not passed once each, in order."""

_TILES = Exclusion(
    "tiled_feedforward", "tiles have branches of their own, none of which it would see"
)

register(
    Feature(
        name="gradient_checkpointing_full",
        option="gradient_checkpointing",
        summary="keep only the input of every block, recompute the rest in backward",
        without="--gradient-checkpointing none",
        requested=lambda c: c.system.gradient_checkpointing == "full",
        refused=lambda c: (
            c.system.gradient_checkpointing not in (None, "adaptive", "full")
        ),
        active=lambda p: p.gradient_checkpointing == "full",
        switch_on=lambda p: p.replace(gradient_checkpointing="full"),
        fallback=lambda p, m: p.replace(gradient_checkpointing="none"),
        build=_RECOMPUTE,
        trial=Trial(
            {"gradient_checkpointing": "full"},
            recomputes=("attention_norm", "feedforward_norm"),
            calls=_AGAIN,
        ),
    )
)
register(
    Feature(
        name="gradient_checkpointing_selective",
        option="gradient_checkpointing",
        summary="keep matrix products and attention, recompute elementwise work",
        without="--gradient-checkpointing none",
        requested=lambda c: c.system.gradient_checkpointing == "selective",
        refused=lambda c: (
            c.system.gradient_checkpointing not in (None, "adaptive", "selective")
        ),
        active=lambda p: p.gradient_checkpointing == "selective",
        switch_on=lambda p: p.replace(gradient_checkpointing="selective"),
        fallback=lambda p, m: p.replace(gradient_checkpointing="full"),
        build=_RECOMPUTE,
        trial=Trial(
            {"gradient_checkpointing": "selective"},
            recomputes=("attention_norm", "feedforward_norm"),
            calls=_AGAIN,
        ),
    )
)
register(
    Feature(
        name="gradient_checkpointing_sqrt",
        option="gradient_checkpointing",
        summary="keep the inputs of about as many blocks as the square root of their "
        "number, recompute the rest in backward, the inputs of blocks too",
        without="--gradient-checkpointing full",
        requested=lambda c: c.system.gradient_checkpointing == "sqrt",
        active=lambda p: p.gradient_checkpointing == "sqrt",
        switch_on=lambda p: p.replace(gradient_checkpointing="sqrt"),
        fallback=lambda p, m: p.replace(gradient_checkpointing="full"),
        excludes=(
            *_OTHER_BLOCKS,
            Exclusion("fsdp2", "a block that is computed again gathers its weights"),
            Exclusion("zero2", "a block that is computed again gathers its weights"),
        ),
        build=_RECOMPUTE,
        trial=Trial(
            {"gradient_checkpointing": "sqrt"},
            recomputes=("attention_norm", "feedforward_norm"),
            calls=_AGAIN,
        ),
    )
)
register(
    Feature(
        name="gradient_checkpointing_except_attention",
        option="gradient_checkpointing",
        summary="keep the input of every block and what its attention gave, recompute "
        "the rest in backward",
        without="--gradient-checkpointing none",
        requested=lambda c: c.system.gradient_checkpointing == EXCEPT,
        active=lambda p: p.gradient_checkpointing == EXCEPT,
        switch_on=lambda p: p.replace(gradient_checkpointing=EXCEPT),
        fallback=lambda p, m: p.replace(gradient_checkpointing="full"),
        excludes=(
            *_OTHER_BLOCKS,
            Exclusion("mixture_of_depths", "its blocks choose tokens for attention"),
            Exclusion("registered_block", "what it attends with is not known"),
            Exclusion("registered_attention", "what it keeps is not known"),
        ),
        build=_RECOMPUTE,
        trial=Trial(
            {"gradient_checkpointing": EXCEPT},
            recomputes=("attention_norm", "feedforward_norm"),
            calls=_AGAIN,
        ),
    )
)
register(
    Feature(
        name="gradient_checkpointing_budget",
        option="gradient_checkpointing",
        summary="recompute in backward no more of each block than memory needs",
        without="--gradient-checkpointing full",
        requested=lambda c: c.system.gradient_checkpointing == "budget",
        active=lambda p: p.gradient_checkpointing == "budget",
        fallback=lambda p, m: p.replace(gradient_checkpointing="full"),
        excludes=_OTHER_BLOCKS,
        build=_RECOMPUTE,
        trial=Trial(
            {"gradient_checkpointing": "budget", "activation_budget": 2**20},
            recomputes=("feedforward_norm",),
            calls=_AGAIN,
            idle=_nothing_again,
        ),
    )
)


def _declare_branch(branch: str, words: str) -> None:
    register(
        Feature(
            name=f"gradient_checkpointing_{branch}",
            option="gradient_checkpointing",
            summary=f"recompute the {words} branch of every block, keep the other one",
            without="--gradient-checkpointing none",
            requested=lambda c: c.system.gradient_checkpointing == branch,
            active=lambda p: p.gradient_checkpointing == branch,
            switch_on=lambda p: p.replace(gradient_checkpointing=branch),
            fallback=lambda p, m: p.replace(gradient_checkpointing="full"),
            excludes=(
                *_OTHER_BLOCKS,
                _TILES,
                Exclusion("mixture_of_depths", "its blocks choose tokens for both"),
                Exclusion("registered_block", "its branches are not known"),
                Exclusion("registered_attention", "what it keeps is not known"),
                Exclusion("registered_feedforward", "what it keeps is not known"),
            ),
            build=_RECOMPUTE,
            trial=Trial(
                {"gradient_checkpointing": branch},
                recomputes=(f"{branch}_norm",),
                calls=_AGAIN,
            ),
        )
    )


_declare_branch("attention", "attention")
_declare_branch("feedforward", "feed-forward")
