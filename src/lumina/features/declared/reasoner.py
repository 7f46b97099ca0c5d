"""Hierarchical reasoning, on text and on puzzles."""

from __future__ import annotations

from typing import Any

from lumina.features.feature import Exclusion, Feature
from lumina.features.table import register
from lumina.features.trial import Trial

_NOT_IN_A_REASONER = (
    "mixture_of_experts", "mixture_of_depths", "mixture_of_recursions", "dropout",
    "sliding_window", "rope_scaling", "qk_norm", "attention_bias", "latent_attention",
    "other_positions", "scaled_embeddings", "stable_embedding",
)  # fmt: skip


TEXT = {
    "use_hrm": True,
    "hrm_mode": "language_model",
    "h_layers": 1,
    "l_layers": 1,
    "halt_max_steps": 2,
}
PUZZLES = {
    "use_hrm": True,
    "hrm_mode": "puzzle",
    "h_layers": 1,
    "l_layers": 1,
    "expansion": 1.0,
    "halt_max_steps": 2,
    "train_data": ("{puzzles}",),
    "seq_length": 81,
    "tokenizer_vocab_size": None,
    "eval_fraction": 0.25,
}
"""Small reasoners that `lumina matrix` tries; None: the option is not set."""

UNDRAWN = {"halt_exploration": 0.0}
"""Ends no segment later at random."""


def _puzzles(config: Any) -> bool:
    return bool(config.hrm.use_hrm and config.hrm.hrm_mode == "puzzle")


register(
    Feature(
        name="hierarchical_reasoning",
        option="use_hrm",
        summary="a recurrent reasoner that halts, in place of the transformer",
        without="--no-use-hrm",
        change_cost="restart",
        requested=lambda c: c.hrm.use_hrm,
        of_shape=lambda spec: spec.hrm is not None,
        lacks={
            "attention_statistics": "reasons in modules of its own",
            "base_outputs": "a reasoner thinks in segments",
            "cache_window": "there is none for a reasoner (use_hrm)",
            "decoding_floor": "it reads its weights several times for a token",
            "context_tier": "reasoners read rows as long as their puzzles",
            "fine_tuning": "it has no rows of text of a length of its own",
            "float32_alone": "computes in float64",
            "label_smoothing": "reasoners have losses of their own",
            "layer_profile": "reasons in modules of its own",
            "measured_batch": "a reasoner does not train on rows of text alone",
            "plain_attention": "its modules choose their attention",
            "pretests": "its rows hand on what it thought",
            "rate_transfer": "no rule is known for its states",
            "stretched_positions": "its rotations are not in its attention alone",
        },
        excludes=tuple(
            Exclusion(name, "a reasoner has no such thing")
            for name in _NOT_IN_A_REASONER
        ),
        # Where it may halt it goes on at random now and then.
        trial=Trial(
            TEXT,
            keeps=False,
            columns=("act.mean_steps",),
            draws=True,
            undrawn=UNDRAWN,
        ),
    )
)
register(
    Feature(
        name="puzzles",
        option="hrm_mode",
        summary="a reasoner that solves puzzles, in place of one that writes text",
        without="--hrm-mode language_model",
        change_cost="restart",
        requested=_puzzles,
        of_shape=lambda spec: spec.solves_puzzles,
        lacks={
            "adapters": "a model of puzzles has a vector for each puzzle, which its "
            "base cannot have yet",
            "answers": "puzzles are solved",
            "chosen_length": "its puzzles give the length and the vocabulary",
            "loading_of_text": "the data is puzzles",
            "long_contexts": "it solves puzzles",
            "row_order": "use_hrm for puzzles is set",
            "samples": "puzzles are answered, not continued",
        },
        excludes=(
            Exclusion(
                "tied_embeddings",
                "a model that solves puzzles has no such thing",
                "leave tie_embeddings out, or use --hrm-mode language_model",
            ),
        ),
        trial=Trial(
            PUZZLES,
            keeps=False,
            columns=("act.exact_accuracy",),
            draws=True,
            undrawn=UNDRAWN,
        ),
    )
)
