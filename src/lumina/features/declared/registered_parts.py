"""Registered parts: your own blocks, attentions, feed-forwards, backbone, objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lumina.features.feature import Exclusion, Feature
from lumina.features.table import register
from lumina.features.trial import Trial

_OTHER_MODELS = (
    "hierarchical_reasoning", "mixture_of_depths", "mixture_of_recursions",
)  # fmt: skip
_INSIDE = {
    "backbone": ("block", "attention", "feedforward", "mixture_of_experts"),
    "block": ("attention", "feedforward"),
}
"""Part -> what is inside it."""

_OPTIONS = {
    "block": "block_type",
    "attention": "attention_type",
    "feedforward": "feedforward_type",
    "backbone": "backbone",
    "objective": "objective",
}
"""Kind of part -> the option that chooses it."""

_TRIED = {
    "block": ("tried_block",),
    "attention": ("tried_attention",),
    "feedforward": ("tried_feedforward",),
    "backbone": "tried_backbone",
    "objective": "tried_objective",
}
"""Kind of part -> one that `lumina matrix` registers to try it."""

_OF_ALL = {
    "cache_window": "there is none for registered parts",
    "decoding_floor": "a registered part need not read every weight for a token",
    "rows_apart": "its registered parts may remember a state of all rows together",
    "paged_cache": "its registered parts may remember a state beside keys",
}
"""What a model with a registered part of any kind lacks, and why."""

_OF_A_LAYER = {"rate_transfer": "a registered part has first values of its own"}

_LACKS: dict[str, dict[str, str]] = {
    "block": _OF_A_LAYER,
    "attention": _OF_A_LAYER,
    "feedforward": _OF_A_LAYER,
    "backbone": {"base_outputs": "a registered backbone embeds tokens itself"},
    "objective": {
        "base_outputs": "a registered objective has a loss of its own",
        "label_smoothing": "a registered objective has a loss of its own",
        "measured_batch": "a registered objective need not train on rows of text",
    },
}
"""Kind of part -> what else a model with such a part lacks, and why."""


def _chosen(option: str) -> Callable[[Any], bool]:
    def requested(config: Any) -> bool:
        value = config.get(option)
        names = (value,) if isinstance(value, str) else tuple(value or ())
        return bool(set(names) - {"standard"})

    return requested


def _held(kind: str) -> Callable[[Any], bool]:
    def of_shape(spec: Any) -> bool:
        parts = spec.parts
        return parts is not None and any(found == kind for found, _ in parts.used())

    return of_shape


def _exclusions(kind: str) -> tuple[Exclusion, ...]:
    inside = [
        name if name.startswith("mixture") else f"registered_{name}"
        for name in _INSIDE.get(kind, ())
    ]
    found = [
        *(Exclusion(n, "that model's parts are its own") for n in _OTHER_MODELS),
        *(Exclusion(n, f"what is inside a {kind} is its own business") for n in inside),
    ]
    if kind == "backbone":
        why = "a registered backbone embeds tokens itself"
        embedding = ("other_positions", "scaled_embeddings", "stable_embedding")
        found += [Exclusion(name, why) for name in embedding]
    return tuple(found)


for _kind, _option in _OPTIONS.items():
    register(
        Feature(
            name=f"registered_{_kind}",
            option=_option,
            summary=f"a registered {_kind} in place of Lumina's own",
            without=f"no --{_option.replace('_', '-')}",
            change_cost="restart",
            requested=_chosen(_option),
            of_shape=_held(_kind),
            lacks=_OF_ALL | _LACKS.get(_kind, {}),
            excludes=_exclusions(_kind),
            trial=Trial({_option: _TRIED[_kind], "plugins": ("{parts}",)}, keeps=False),
        )
    )
