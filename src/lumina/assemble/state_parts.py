"""Parts that a State may do without; they start over where a run goes on from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from lumina.assemble.carry import CARRY
from lumina.state.state import State

BASE = "base_weights"
"""The slot of a State that holds the weights which training stays near."""

WITHOUT = "without"
"""The key of a State's `extra` that names the parts it does without."""

_NO_OPTIMIZER = ("ema", CARRY, BASE)
"""Slots of a State that belong to no optimizer."""


def _no_optimizer(state: State) -> State:
    """Without moments, factors and step counts; averages of the weights stay."""
    held = {slot: state.optimizer[slot] for slot in state.optimizer}
    kept = {slot: held[slot] for slot in held if slot in _NO_OPTIMIZER}
    extra = {
        key: value
        for key, value in state.extra.items()
        if not key.startswith("optimizer") and key != "gradient_steps"
    }
    return replace(state, optimizer=kept, extra=extra)


def _no_scheduler(state: State) -> State:
    """Without what controls made of the learning rate."""
    live = dict(state.extra.get("live", {}))
    live.pop("learning_rate_scale", None)
    live.pop("rewarm", None)
    live.pop("glide", None)
    journal = [
        change | {"outcome": "set aside: the schedule was restarted"}
        if change["name"] == "learning_rate" and change["outcome"] == "applied"
        else change
        for change in state.journal
    ]
    return replace(state, journal=journal, extra=state.extra | {"live": live})


def _no_metrics(state: State) -> State:
    """Without the best evaluation, the patience and the number of skipped steps."""
    begun = {
        "best_loss": None,
        "best_step": None,
        "best_score": None,
        "best_mark": None,
        "worse_evaluations": 0,
    }
    counters = state.counters | {"skipped": 0}
    return replace(state, counters=counters, extra=state.extra | begun)


def _no_adaptive(state: State) -> State:
    """Without what the rules that watch a run have seen."""
    return replace(state, extra=state.extra | {"rules": {}})


PARTS: dict[str, tuple[str, Callable[[State], State]]] = {
    "optimizer": ("the optimizer's states", _no_optimizer),
    "scheduler": ("what controls made of the learning rate", _no_scheduler),
    "metrics": ("the best evaluation, patience and skipped steps", _no_metrics),
    "adaptive": ("what the rules have seen", _no_adaptive),
}
"""Part -> its name in words, and what leaves it out of a State."""

_SAVED = {
    "save_optimizer_states": "optimizer",
    "save_scheduler_states": "scheduler",
    "save_training_metrics": "metrics",
    "save_adaptive_state": "adaptive",
}
"""Option that a checkpoint holds a part -> the part."""


def without(state: State, parts: Iterable[str]) -> State:
    """The State without some parts, which it names; the one given stays as it is."""
    missing = [part for part in PARTS if part in set(parts)]
    if not missing:
        return state
    for part in missing:
        state = PARTS[part][1](state)
    listed = [p for p in PARTS if p in missing or p in state.extra.get(WITHOUT, ())]
    return replace(state, extra=state.extra | {WITHOUT: listed})


def as_saved(state: State, config: Mapping[str, Any]) -> State:
    """What a checkpoint of a State holds by the settings of the run."""
    return without(state, [p for leaf, p in _SAVED.items() if not config[leaf]])


def lacks(state: State, part: str) -> bool:
    """Whether a State does without a part."""
    return part in state.extra.get(WITHOUT, ())


def missing_in_words(state: State) -> str:
    """The parts that a State does without; empty for a whole one."""
    return ", ".join(PARTS[part][0] for part in state.extra.get(WITHOUT, ()))
