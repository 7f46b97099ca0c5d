"""Floating-point operations of training, by the convention every MFU here uses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lumina.model.declared import parameters
from lumina.model.freezing import frozen_parameters
from lumina.model.spec import ModelSpec
from lumina.plan.checkpointing import forwards_again
from lumina.plan.costs.cost import Share
from lumina.plan.costs.table import costs_of
from lumina.plan.count import Counts, block_parameters, count_parameters

CONVENTION = (
    "6 x active non-embedding parameters (the head counts) "
    "+ 6 x layers x heads x head_dim x sequence for causal attention; a block that "
    "takes a share of the tokens counts that share, and its square in attention; a "
    "reasoner counts every update it executes; a registered part adds what it says; "
    "frozen weights under adapters count 4 in place of 6"
)
"""Printed beside every MFU."""

KEYS = ("k", "v", "k_norm", "kv_down", "kv_latent_norm", "kv_up")
"""Modules and matrices of an attention that only make keys and values."""


def flops_per_token(spec: ModelSpec, counts: Counts | None = None) -> float:
    """Operations of forward and backward for one token, recomputation not counted.

    Causal attention looks at S / 2 positions on average: 12 * L * d * (S / 2). Under a
    window of W < S positions the average is W - W^2 / (2 S). Where only a share of the
    tokens goes through a block, both queries and keys are that share. Values narrower
    than keys count as narrow, although kernels get them filled up with zeros.
    """
    counts = counts or count_parameters(spec)
    costs = costs_of(spec)
    for cost in costs:
        whole = cost.flops(spec, counts)
        if whole is not None:
            return whole
    attended = attended_keys(spec)
    width = spec.num_heads * (spec.head_dim + spec.value_dim) / 2
    products = float(counts.active_non_embedding)
    attending = (cost.attending(spec) for cost in costs)
    looks = float(min(attending, default=spec.num_layers))
    for one in passes(spec):
        attention, feedforward = _block_parameters(spec, one.layer)
        products += (one.attention - one.once) * attention
        if one.shared:
            products -= one.attention * _key_parameters(spec, one.layer)
        products += (one.feedforward - one.once) * feedforward
        looks += one.attention * one.keys - one.once
    further = sum(cost.further_flops(spec) for cost in costs)
    each = 6.0 - 2 * frozen_parameters_used(spec) / counts.active_non_embedding
    return each * products + 12 * looks * width * attended + further


def frozen_parameters_used(spec: ModelSpec) -> int:
    """Parameters under adapters that multiply a token and have no gradient."""
    if not spec.adapters:
        return 0
    frozen = frozen_parameters(spec, ())
    table = spec.padded_vocab_size * spec.hidden_size if spec.tie_embeddings else 0
    return table + sum(
        one.size * one.used[0] // one.used[1]
        for one in parameters(spec)
        if one.name in frozen and one.role not in ("embedding", "puzzle")
    )


def attended_keys(spec: ModelSpec) -> float:
    """Earlier keys, with its own, that a query of a whole row sees on average."""
    length, beyond = spec.seq_length, spec.beyond_window
    window = min(spec.window_size or length, length)
    attended = window - window * window / (2 * length)
    hidden = (length - window) ** 2 / (2 * length)
    if beyond.sinks:
        attended += min(hidden, beyond.sinks * (length - window) / length)
    if beyond.dilation:
        attended += hidden / beyond.dilation
    return min(attended, length / 2)


def layer_flops(spec: ModelSpec) -> list[float]:
    """What each block has of `flops_per_token`; the heads have the rest.

    Operations that a registered part names are not in it.
    """
    attended = attended_keys(spec)
    width = spec.num_heads * (spec.head_dim + spec.value_dim) / 2
    attending = (cost.attending(spec) for cost in costs_of(spec))
    share = min(attending, default=spec.num_layers) / spec.num_layers
    sizes = [_block_parameters(spec, layer) for layer in range(spec.num_layers)]
    products = [attention + feedforward for attention, feedforward in sizes]
    looks = [share] * spec.num_layers
    for one in passes(spec):
        attention, feedforward = sizes[one.layer]
        products[one.layer] += (one.attention - one.once) * attention
        if one.shared:
            products[one.layer] -= one.attention * _key_parameters(spec, one.layer)
        products[one.layer] += (one.feedforward - one.once) * feedforward
        looks[one.layer] += one.attention * one.keys - one.once
    frozen = frozen_parameters_used(spec) / count_parameters(spec).active_non_embedding
    each = 6.0 - 2 * frozen
    return [
        each * size + 12 * seen * width * attended
        for size, seen in zip(products, looks, strict=True)
    ]


def hardware_flops_per_token(plan: Any) -> float:
    """`flops_per_token` of a Plan, and what its checkpointing computes again.

    Full checkpointing makes the forward pass of every block twice, a third of its
    operations; the heads are not made again. (PyTorch stops before the last product of
    a block; by convention that is counted too.) Selective checkpointing keeps products
    and attention, which alone count.
    """
    total = float(plan.flops_per_token)
    forwards = forwards_again(plan, plan.spec.num_layers)
    if not forwards:
        return total
    heads = max((cost.heads(plan.spec) for cost in costs_of(plan.spec)), default=1)
    head = 6.0 * heads * int(plan.spec.vocab_size) * int(plan.spec.hidden_size)
    # A third of what there would be if all weights had gradients.
    spared = 2.0 * frozen_parameters_used(plan.spec)
    return total + (total + spared - head) * forwards / 3


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
    found, costs = [], costs_of(spec)
    repeats = [share for cost in costs for share in cost.repeats(spec)]
    shared = not all(cost.repeats_keys(spec) for cost in costs)
    for layer in range(spec.num_layers):
        shares = [s for cost in costs if (s := cost.share(spec, layer)) is not None]
        attention, feedforward = shares[0] if shares else Share()
        if shares:
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
                for s in repeats
            ]
    return found


def _block_parameters(spec: ModelSpec, layer: int) -> tuple[int, float]:
    """Parameters a token uses in a block: (attention and its norm, the rest)."""
    attention, feedforward = 0, 0.0
    for name, one in block_parameters(spec, layer).items():
        if name.startswith("attention"):
            attention += one.size
        else:
            part, parts = one.used
            feedforward += one.size * part / parts
    return attention, feedforward


def _key_parameters(spec: ModelSpec, layer: int) -> int:
    """Parameters of a layer's attention that only make keys and values."""
    found = 0
    for one in block_parameters(spec, layer).values():
        for name, (shape, _) in one.logical().items():
            module, _, leaf = name.removesuffix(".weight").rpartition(".attention.")
            if module and leaf.removesuffix(".bias") in KEYS:
                found += math.prod(shape)
    return found
