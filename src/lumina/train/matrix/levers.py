"""Settings that take memory away and cost something, the cheapest first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Lever:
    """A setting that takes memory away and costs something.

    Attributes:
        feature: what it switches on.
        options: leaves of the configuration.
        exact: whether it keeps every number up to rounding.
        costs: what it costs, in words.
        instead_of: the optimizer that it takes the place of; "": of none.
    """

    feature: str
    options: Mapping[str, Any]
    exact: bool
    costs: str
    instead_of: str = ""


LEVERS = (
    Lever(
        "gradient_checkpointing_full",
        {"gradient_checkpointing": "full"},
        True,
        "blocks are computed twice",
    ),
    Lever(
        "embedding_host",
        {"embedding_in": "host"},
        True,
        "rows of the frozen embedding pass through the link to the host",
    ),
    Lever(
        "adamw_8bit",
        {"optimizer": "adamw_8bit"},
        False,
        "moments are rounded to 8 bits",
        instead_of="adamw",
    ),
    Lever(
        "optimizer_states_host",
        {"optimizer_states_in": "host"},
        True,
        "states pass through the link to the host in each step",
    ),
    Lever(
        "activations_host",
        {"activations_in": "host", "gradient_checkpointing": "full"},
        True,
        "inputs of blocks pass through the link to the host in each step",
    ),
    Lever(
        "weights_host",
        {"weights_in": "host"},
        True,
        "weights of blocks pass through the link to the host twice in each step",
    ),
    Lever(
        "chunked_training",
        {"use_chunked_training": True, "compile": False},
        True,
        "pieces of a row are worked on in turn, uncompiled",
    ),
    Lever(
        "fsdp2",
        {"parallel": "fsdp2"},
        True,
        "weights are gathered for each pass of each block",
    ),
    Lever(
        "optimizer_in_backward",
        {
            "optimizer_in_backward": True,
            "max_grad_norm": 0.0,
            "batch_size": 1,
            "global_batch_size": 1,
        },
        False,
        "one row a step on each device, and no clipping",
    ),
)
"""From the one that costs least to the one that costs most."""


def by_cost(levers: Sequence[Lever]) -> Iterator[tuple[Lever, ...]]:
    """Every choice of levers; one costs more than all cheaper ones together."""
    for number in range(2 ** len(levers)):
        yield tuple(lever for place, lever in enumerate(levers) if number >> place & 1)
