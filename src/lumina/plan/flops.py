"""Floating-point operations of training, by the convention every MFU here uses."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lumina.model.spec import HrmSpec, ModelSpec
from lumina.plan.count import (
    Counts,
    block_shapes,
    count_parameters,
    is_routed,
    latent_shapes,
)
from lumina.plan.parts import extra_flops, own_attention

CONVENTION = (
    "6 x active non-embedding parameters (the head counts) "
    "+ 6 x layers x heads x head_dim x sequence for causal attention; a block that "
    "takes a share of the tokens counts that share, and its square in attention; a "
    "reasoner counts every update it executes; a registered part adds what it says"
)
"""Printed beside every MFU."""


def flops_per_token(spec: ModelSpec, counts: Counts | None = None) -> float:
    """Operations of forward and backward for one token, recomputation not counted.

    Causal attention looks at S / 2 positions on average: 12 * L * d * (S / 2). Under a
    window of W < S positions the average is W - W^2 / (2 S). Where only a share of the
    tokens goes through a block, both queries and keys are that share. Values narrower
    than keys count as narrow, although kernels get them filled up with zeros.
    """
    counts = counts or count_parameters(spec)
    if spec.solves_puzzles and spec.hrm is not None:
        return _of_a_segment(spec, spec.hrm, counts)
    if spec.hrm is not None:
        return _of_all_segments(spec, spec.hrm, counts)
    length = spec.seq_length
    window = min(spec.window_size or length, length)
    attended = window - window * window / (2 * length)
    width = spec.num_heads * (spec.head_dim + spec.value_dim) / 2
    products = float(counts.active_non_embedding)
    looks = float(own_attention(spec))
    for one in passes(spec):
        attention, feedforward = _block_parameters(spec, one.layer)
        products += (one.attention - one.once) * attention
        if one.shared:
            products -= one.attention * _key_parameters(spec)
        products += (one.feedforward - one.once) * feedforward
        looks += one.attention * one.keys - one.once
    return 6.0 * products + 12 * looks * width * attended + extra_flops(spec)


@dataclass(frozen=True)
class Pass:
    """One execution of a block, where it differs from every token's once.

    Attributes:
        attention: share of the tokens that attend.
        keys: share of the tokens they attend to.
        feedforward: share of the tokens that go through the feed-forward.
        once: 1 for the pass that the parameter count stands for, 0 for a further one.
        shared: whether the keys are those of another pass, and none are made.
    """

    layer: int
    attention: float
    keys: float
    feedforward: float
    once: int = 1
    shared: bool = False


def passes(spec: ModelSpec) -> list[Pass]:
    """Blocks that not every token goes through, or not once."""
    found = []
    shares = recursion_shares(spec)
    shared = spec.mor is not None and spec.mor.kv_sharing
    for layer in range(spec.num_layers):
        attention = feedforward = 1.0
        if (mod := spec.mod) is not None and layer in mod.layers:
            feedforward = 1.0 if mod.mode == "static" else depth_share(spec)
            attention = feedforward if mod.scope == "block" else 1.0
            found.append(Pass(layer, attention, attention, feedforward))
        if 0 < layer < spec.num_layers - 1:
            found += [
                Pass(
                    layer,
                    s * attention,
                    1.0 if shared else s * attention,
                    s * feedforward,
                    once=0,
                    shared=shared,
                )
                for s in shares
            ]
    return found


def recursion_shares(spec: ModelSpec) -> list[float]:
    """Tokens in each pass of the middle blocks after the first, over all of a row."""
    if spec.mor is None:
        return []
    depths = range(1, spec.mor.recursions)
    if spec.mor.mode == "static":
        return [1.0 for _ in depths]
    length = spec.seq_length
    return [spec.mor.places(depth, length) / length for depth in depths]


def depth_share(spec: ModelSpec) -> float:
    """Tokens a Mixture-of-Depths block takes of a row: k / S, on average over a run."""
    assert spec.mod is not None
    length = spec.seq_length
    capacities = spec.mod.schedule or (spec.mod.capacity,)
    taken = [max(1, math.ceil(round(c * length, 6))) for c in capacities]
    return sum(taken) / len(taken) / length


def _block_parameters(spec: ModelSpec, layer: int) -> tuple[int, float]:
    """Parameters a token uses in a block: (attention and its norm, the rest)."""
    attention, feedforward = 0, 0.0
    for name, shape in block_shapes(spec, is_routed(spec, layer)).items():
        size = math.prod(shape)
        if name.startswith("attention"):
            attention += size
        elif name in ("feedforward.gate_up", "feedforward.down"):
            assert spec.moe is not None
            feedforward += size * spec.moe.top_k / spec.moe.num_experts
        else:
            feedforward += size
    return attention, feedforward


def _key_parameters(spec: ModelSpec) -> int:
    """Parameters of a block that only make keys and values."""
    if not spec.mla_kv_rank:
        return 2 * spec.num_kv_heads * spec.head_dim * (
            spec.hidden_size + spec.attention_bias
        ) + (_key_norm(spec))
    shapes = latent_shapes(spec)
    made = ("kv_down.weight", "kv_latent_norm.weight", "kv_up.weight")
    return sum(math.prod(shapes[name]) for name in made)


def _key_norm(spec: ModelSpec) -> int:
    """Weights that normalise keys."""
    key = {"rms": spec.head_dim, "l2": spec.num_kv_heads}
    key["rms_full"] = spec.num_kv_heads * spec.head_dim
    return key.get(spec.qk_norm, 0)


def _of_a_segment(spec: ModelSpec, hrm: HrmSpec, counts: Counts) -> float:
    """One training step of a reasoner of puzzles, for a token of its rows.

    What is executed: every update once forwards, in the hrm variant once more for the
    worth of going on, and the last updates backwards. All positions see all others.
    """
    block = _reasoning_block(spec, counts, spec.seq_length)
    updates, learned = reasoning_blocks(spec, hrm)
    twice = hrm.variant == "hrm" and hrm.halt_max_steps > 1
    forwards = 2 * updates if twice else updates
    return (forwards + 2 * learned) * block + 6.0 * counts.head


def _of_all_segments(spec: ModelSpec, hrm: HrmSpec, counts: Counts) -> float:
    """One training step of a causal reasoner, for a token.

    Every token is computed in every segment, halted or not: every update forwards, the
    last ones backwards, and the head.
    """
    block = _reasoning_block(spec, counts, spec.seq_length / 2)
    updates, learned = reasoning_blocks(spec, hrm)
    head = spec.padded_vocab_size * spec.hidden_size
    return hrm.halt_max_steps * ((updates + 2 * learned) * block + 6.0 * head)


def reasoning_blocks(spec: ModelSpec, hrm: HrmSpec) -> tuple[int, int]:
    """Blocks of a segment's updates, and of those that carry gradient."""
    one = hrm.variant == "trm"
    high = hrm.l_layers if one else hrm.h_layers
    updates = hrm.h_cycles * (hrm.l_cycles * hrm.l_layers + high)
    return updates, hrm.l_layers * (hrm.l_cycles + 1) if one else spec.num_layers


def _reasoning_block(spec: ModelSpec, counts: Counts, attended: float) -> float:
    """One block forwards, for a token that sees so many others."""
    products = 2.0 * (counts.attention + counts.feedforward) / spec.num_layers
    return products + 4.0 * spec.num_heads * spec.head_dim * attended
