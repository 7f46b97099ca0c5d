"""Factors of an earlier estimator of memory, beside what is counted for a model.

The design multiplied parts of the memory by constants. They are kept here as what they
are, claims; the second number is what Lumina's own count gives for the settings at
hand, or was measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from lumina.model.spec import ModelSpec
from lumina.plan.costs.layout import Layout
from lumina.plan.count import count_exchanged
from lumina.plan.memory import COMPILED_SHARE, estimate

RANK = 8
"""Columns of PowerSGD's factors, as the design has them."""

PAGE = 256
"""Tokens of a block of a paged cache."""

Count = Callable[[ModelSpec, Layout], float | None]


@dataclass(frozen=True)
class Factor:
    """One factor.

    Attributes:
        name: what it multiplies.
        claim: the design's constant.
        counted: the same for a model and a step; None: there is no such thing here.
        how: what the count is.
    """

    name: str
    claim: float
    counted: Count
    how: str


def _activations(spec: ModelSpec, layout: Layout, **changes: str) -> int:
    return estimate(spec, replace(layout, **changes))["activations"]  # type: ignore[arg-type]


def _attention(spec: ModelSpec, layout: Layout) -> float:
    kept = {"gradient_checkpointing": "none"}
    scores = _activations(spec, layout, attention="reference", **kept)
    return _activations(spec, layout, **kept) / scores


def _selective(spec: ModelSpec, layout: Layout) -> float:
    some = _activations(spec, layout, gradient_checkpointing="selective")
    return some / _activations(spec, layout, gradient_checkpointing="none")


def _groups(spec: ModelSpec, layout: Layout) -> float:
    return spec.num_kv_heads / spec.num_heads


def _paged(spec: ModelSpec, layout: Layout) -> float:
    """Of rows of all lengths up to the longest alike."""
    longest = spec.seq_length
    blocks = [min(longest, -(-n // PAGE) * PAGE) for n in range(1, longest + 1)]
    return sum(blocks) / longest / longest


def _fused(spec: ModelSpec, layout: Layout) -> float:
    return COMPILED_SHARE


def _compression(spec: ModelSpec, layout: Layout) -> float:
    """With vectors and narrow matrices, which travel whole, and both factors."""
    found = count_exchanged(spec, layout.freeze, RANK)
    return found.sent / found.whole


FACTORS = (
    Factor(
        "activations, attention by a fused kernel",
        0.25,
        _attention,
        "activations without recomputation, as planned / with all scores kept",
    ),
    Factor(
        "activations, selective checkpointing",
        0.20,
        _selective,
        "activations with selective / with none",
    ),
    Factor(
        "keys and values, grouped queries",
        1 / 8,
        _groups,
        "heads of keys / heads of queries",
    ),
    Factor(
        "keys and values, paged cache",
        0.5,
        _paged,
        "blocks of 256 tokens / full rows, for rows of all lengths alike",
    ),
    Factor(
        "activations, fused kernels",
        0.8,
        _fused,
        "compiled / not compiled, measured on five models (benchmarks/memory.py)",
    ),
    Factor(
        "gradients exchanged, PowerSGD",
        1 / 320,
        _compression,
        "numbers that processes add up with factors of rank 8 / with whole gradients",
    ),
)
"""All of them, with the claims of the design."""


@dataclass(frozen=True)
class Gate:
    """What the design switched on by the tier of the context.

    Attributes:
        what: the technique.
        tier: from which it was to be on.
        here: what decides instead.
    """

    what: str
    tier: int
    here: str


GATES = (
    Gate("flash attention", 3, "on at every length where the device has a kernel"),
    Gate(
        "DeepSpeed",
        4,
        "not used: --parallel zero2 and fsdp2, and --optimizer-states-in host or disk",
    ),
    Gate("grouped queries", 8, "a property of the model: --num-kv-heads"),
    Gate(
        "selective checkpointing",
        8,
        "on where the memory needs it, full recomputation where that is not enough",
    ),
    Gate("4-bit activations", 8, "off unless named: --activation-bits 4"),
    Gate("PowerSGD", 8, "off unless named: --gradient-compression powersgd"),
    Gate("paged cache", 8, "of generation, at any length: --kv-cache-paged"),
    Gate("fused kernels", 8, "on wherever a kernel compiler is"),
    Gate(
        "ring attention",
        9,
        "between processes for rows of more than 262,144 tokens, or named: "
        "--context-parallel; one device takes rows in chunks (--use-chunked-training)",
    ),
)
"""The gates of the design; Lumina decides by bytes, not by tiers."""
