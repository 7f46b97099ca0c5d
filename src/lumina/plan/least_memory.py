"""The least memory of a device that ways of training a model need.

A check of the estimator: a device with so much admits the run, one with less does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lumina.config.provenance import Source
from lumina.plan.environment import Environment
from lumina.plan.layout_choice import smallest_estimate
from lumina.plan.memory import COMPONENTS
from lumina.plan.shape import resolve_spec

if TYPE_CHECKING:
    from lumina.config import Config

_ADAPTERS = {"use_peft": True, "init_from": "base"}

MODES: dict[str, dict[str, Any]] = {
    "all weights": {},
    "all weights, states in 8 bits": {"optimizer": "adamw_8bit"},
    "all weights, states on the host": {"optimizer_states_in": "host"},
    "all weights, weights and states on the host": {
        "optimizer_states_in": "host",
        "weights_in": "host",
    },
    "adapters": _ADAPTERS,
    "adapters, base in 4 bits": {**_ADAPTERS, "load_in_4bit": True},
    "adapters, base in 4 bits on the host": {
        **_ADAPTERS,
        "load_in_4bit": True,
        "weights_in": "host",
    },
}
"""Ways of training -> what they set. One row in a step, blocks recomputed."""

_LEAST = {
    "batch_size": 1,
    "global_batch_size": 1,
    "gradient_checkpointing": "full",
    "precision": "mixed_bf16",
}


@dataclass(frozen=True)
class Least:
    """What one way of training needs.

    Attributes:
        mode: an entry of `MODES`.
        bound: bytes that its step takes at most: those of the smallest device that
            admits it.
        largest: the component that takes the most.
    """

    mode: str
    bound: int
    largest: str


def settings_of(config: Config, mode: str) -> Config:
    """The settings of one way of training.

    Args:
        config: shape and row length.
        mode: an entry of `MODES`.
    """
    return config.override(_LEAST | MODES[mode], Source("flag", "--least"))


def least_memory(config: Config, machine: Environment, vocab_size: int) -> list[Least]:
    """Each way of training on one device like that of a machine, of any size.

    Args:
        config: shape and row length.
        machine: whose kernels and types count.
        vocab_size: tokens of the tokenizer.
    """
    found = []
    for mode in MODES:
        trial = settings_of(config, mode)
        spec = resolve_spec(trial, vocab_size)
        parts = smallest_estimate(trial, machine, spec, 1)
        largest = max(COMPONENTS, key=lambda name: parts[name])
        found.append(Least(mode, parts["bound"], largest))
    return found
