"""Exact parameter counts, from the declarations of a model's tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lumina.model.declared import in_block, parameters
from lumina.model.freezing import frozen_parameters
from lumina.model.spec import ModelSpec
from lumina.model.tensors import Declared
from lumina.parallel.matrices import Amount, amount


@dataclass(frozen=True)
class Counts:
    """Numbers of parameters (padding rows of the vocabulary included).

    Attributes:
        total: all stored parameters; a tied head is stored once.
        active: parameters one token uses: all but the experts it does not go to, and
            the heads of other tasks.
        embedding: rows of the input tables: tokens, learned positions, puzzles.
        head: parameters of all output heads, 0 when tied to the embedding.
        experts: parameters of all routed experts (without routers).
        active_experts: parameters of the experts one token goes to.
        router: parameters of the routers.
        attention: attention projections and their norms.
        feedforward: dense feed-forward layers.
        norms: the blocks' norms and the final one.
        adapters: small tensors that stand beside matrices.
        active_non_embedding: what multiplies a token: `active` without the input
            table, but with the head, tied or not.
    """

    total: int
    active: int
    embedding: int
    head: int
    experts: int
    active_experts: int
    router: int
    attention: int
    feedforward: int
    norms: int
    adapters: int
    active_non_embedding: int

    @property
    def expert_share(self) -> float:
        """Experts' share of all parameters (whole model)."""
        return self.experts / self.total

    @property
    def active_expert_share(self) -> float:
        """Share of the experts' parameters that one token uses (experts only)."""
        return self.active_experts / self.experts if self.experts else 0.0


def block_parameters(spec: ModelSpec, layer: int) -> dict[str, Declared]:
    """The parameters of one block, by their names within it.

    Without those that decide which tokens the block takes.
    """
    return {
        name: one
        for name, one in in_block(spec, layer).items()
        if one.kind == "parameter" and not name.startswith("depth.")
    }


def count_parameters(spec: ModelSpec) -> Counts:
    """Count by kind, from the declarations of a model's tensors."""
    groups = dict.fromkeys(
        (
            "embedding",
            "head",
            "experts",
            "router",
            "attention",
            "feedforward",
            "norms",
            "adapters",
        ),
        0,
    )
    shared: dict[tuple[str, tuple[int, int]], int] = {}
    for one in parameters(spec):
        group = _group(one)
        groups[group] += one.size
        shared[group, one.used] = shared.get((group, one.used), 0) + one.size
    used = dict.fromkeys(groups, 0)
    for (group, (part, parts)), size in shared.items():
        used[group] += size * part // parts
    active = sum(used.values())
    table = spec.padded_vocab_size * spec.hidden_size
    used_as_head = table if spec.tie_embeddings else 0
    return Counts(
        total=sum(groups.values()),
        active=active,
        active_experts=used["experts"],
        active_non_embedding=active - groups["embedding"] + used_as_head,
        **groups,
    )


def count_trainable(spec: ModelSpec, freeze: Sequence[str]) -> int:
    """Parameters that train and of which an optimizer keeps something."""
    return sum(one.size for one in trainable(spec, freeze) if not one.sparse)


def trainable(spec: ModelSpec, freeze: Sequence[str]) -> list[Declared]:
    """Parameters that `freeze` leaves to train."""
    frozen = frozen_parameters(spec, freeze)
    return [one for one in parameters(spec) if one.name not in frozen]


def count_small(spec: ModelSpec, freeze: Sequence[str] | None, below: int) -> int:
    """Parameters in tensors of fewer elements than `below`.

    Args:
        spec: the shape.
        freeze: patterns of tensors that do not train, which are not counted; None: all
            are.
        below: elements.
    """
    if not below:
        return 0
    these = parameters(spec) if freeze is None else trainable(spec, freeze)
    return sum(one.size for one in these if one.size < below and not one.sparse)


def count_exchanged(spec: ModelSpec, freeze: Sequence[str], rank: int) -> Amount:
    """What gradients take when ranks that hold whole weights exchange them, in numbers.

    Args:
        spec: the shape.
        freeze: patterns of tensors that do not train.
        rank: columns of the factors in which they are exchanged; 0: whole.
    """
    trained = (one for one in trainable(spec, freeze) if not one.sparse)
    return amount((one.shape for one in trained), rank)


def count_sparse(spec: ModelSpec) -> int:
    """Parameters of which a step uses a few rows, such as the vectors of puzzles."""
    return sum(one.size for one in parameters(spec) if one.sparse)


def _group(one: Declared) -> str:
    """The field of `Counts` a parameter belongs to."""
    by_role = {
        "embedding": "embedding",
        "puzzle": "embedding",
        "head": "head",
        "router": "router",
        "expert": "experts",
        "adapter": "adapters",
    }
    if one.role in by_role:
        return by_role[one.role]
    for group in ("attention", "feedforward"):
        if f".{group}." in one.name:
            return group
    return "norms"
